"""Pretrained models behind one interface: timm, transformers, packaged weights, any nn.Module.

Start at ``load.py`` (which spec is which model), then ``backbone.py`` (the interface) and ``stages.py`` (its slices).
"""
