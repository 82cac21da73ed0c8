"""Plans and the features they rest on: drift, calibration on the true end error, the frontier."""
