"""Pictures inside the world model as plain PyTorch, the twin of `diwa_trainer.world.joint`: same weights, same results.

Pictures channels first, each transposed convolution as PyTorch has it: how LUMOS and DreamerV2's followers write it.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diwa_trainer.world.joint import PictureDecoder, PictureEncoder
from diwa_trainer.world.observations import Observation


def embed(encoder: PictureEncoder, observation: Observation) -> Tensor:
    """Embed images (..., H, W, 3): (..., E)."""
    codes = []
    for name, network in encoder.cameras.items():
        x = pictures(observation[name])
        for layer in cast(nn.Sequential, network):
            x = F.conv2d(x, layer.weight.contiguous(), layer.bias, 2) if isinstance(layer, nn.Conv2d) else layer(x)
        codes.append(x)
    leading = observation[name].shape[:-3]
    return F.silu(encoder.norm(encoder.head(torch.cat(codes, -1)))).unflatten(0, leading)


def error(decoder: PictureDecoder, latents: Tensor, observation: Observation) -> Tensor:
    """Half the summed squared error (...) of pictures drawn from latents (..., Z)."""
    into = decoder.into(latents.flatten(0, -2)).unflatten(-1, (-1, 1, 1))
    total = torch.zeros(len(into))
    for name, network in decoder.cameras.items():
        x = into
        for layer in cast(nn.Sequential, network):
            if isinstance(layer, nn.ConvTranspose2d):
                x = F.conv_transpose2d(x, layer.weight.contiguous(), layer.bias, 2)
            else:
                x = layer(x)
        difference = (x - pictures(observation[name])) / decoder.get_buffer(f"spread_{name}")
        total = total + 0.5 * difference.square().sum((1, 2, 3))
    return total.view(latents.shape[:-1])


def pictures(images: Tensor) -> Tensor:
    """Turn images (..., H, W, 3) of bytes into pictures (N, 3, H, W) of -1 to 1."""
    return (images.flatten(0, -4).permute(0, 3, 1, 2).contiguous().float() / 255 - 0.5) * 2
