"""Small networks of every kind."""

import models

DDPM = models.UNetConfig(resolution=16, channels=32, channel_mult=[1, 2], attention_levels=[1])
LDM = models.UNetConfig(
    resolution=16, channels=32, channel_mult=[1, 2], attention_levels=[0, 1], context_dim=8, num_heads=2,
    timestep_embedding="cos_sin", norm_eps=1e-5, downsample_padding="symmetric",
)  # fmt: skip
GUIDED = models.UNetConfig(
    resolution=16, channels=32, channel_mult=[1, 2], num_res_blocks=1, attention_levels=[1], head_channels=16,
    num_classes=5, timestep_embedding="cos_sin", norm_eps=1e-5, resample="resblock", scale_shift_norm=True,
)  # fmt: skip
