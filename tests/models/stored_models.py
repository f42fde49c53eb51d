"""Hugging Face directories of presets, and configurations."""

from __future__ import annotations

import json

import torch
from forgec.models.building import make_config, model_class, random_model

from forgec import models


def save(folder, preset: str, seed: int = 3, **options):
    """Write a preset's model as a Hugging Face directory."""
    config = make_config(models.describe(preset).config_dict(), layers=None)
    model = random_model(model_class(config), config, seed=seed, attn="sdpa", dtype=torch.float32)
    model.save_pretrained(folder, **options)
    return folder


def write_config(folder, preset: str = "gpt2-tiny", **changes):
    folder.mkdir(exist_ok=True)
    path = folder / "config.json"
    path.write_text(json.dumps(models.describe(preset).config_dict() | changes))
    return path
