"""The paper's tables: what their rows run, what the paper prints, how both are laid beside each other."""
