"""Pictures inside the world model, as the paper has it: each camera's encoder and decoder, learned with the rest.

The networks are those that DiWA has from LUMOS: four convolutions of kernel 4 and stride 2, of d, 2d, 4d and 8d
channels, and back by transposed convolutions of kernels 5, 5, 6 and 6. With d = 48, embeddings of 1536 and an RSSM of
1024 + 32 x 32 they are the paper's (preset `paper`), but for SiLU in place of ELU: it takes half the time.
Dimensions: N frames, E numbers of an embedding, Z latent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from diwa_runtime.config.bounds import WEIGHTS, WIDTHS, check_bounds
from diwa_runtime.errors import ConfigError
from diwa_runtime.spec import Spec
from diwa_trainer.dataset import Dataset
from diwa_trainer.world.eyes.eyes import as_images
from diwa_trainer.world.observations import Observation

SIDE = 64
"""Pixels of a picture's side: what the kernels' sizes lead to and back from."""
KERNEL, DECODER_KERNELS = 4, (5, 5, 6, 6)
NORM_EPS = 1e-3
BLOCK = 256
"""Pictures that are coded at a time where no gradient is wanted, so that memory does not grow with the recordings."""
FITTED_ROWS = 2000
"""Recorded rows that the pixels' spread is taken from."""
LEAST_SPREAD = 0.1
"""Of a pixel over the recordings, where white less black is 2."""


@dataclass(frozen=True)
class JointConfig:
    """Sizes and loss of the world model's own encoder and decoders of pictures."""

    depth: int = field(
        default=0,
        metadata={"help": "channels of a camera's first convolution; 0: none, pictures are seen by eyes in front"},
    )
    embedding: int = field(default=256, metadata={"help": "numbers that all cameras' pictures become"})
    weight: float = field(default=1e-3, metadata={"help": "of half the summed squared error of a frame's pictures"})
    by_spread: bool = field(
        default=True, metadata={"help": "a pixel counts by its spread over the recordings, else all alike"}
    )
    numbers: bool = field(
        default=True,
        metadata={"help": "latents learn from decoded numbers too; else these are read off for people alone"},
    )
    shortcut: bool = field(
        default=True, metadata={"help": "proprio has a straight way into the states, half of which begin as its scales"}
    )

    def __post_init__(self) -> None:
        check_bounds(self, depth=(0, 1024), embedding=WIDTHS, weight=WEIGHTS)


class PictureEncoder(nn.Module):
    """All cameras' pictures -> embeddings (N, E)."""

    def __init__(self, spec: Spec, config: JointConfig) -> None:
        super().__init__()
        for camera in spec.cameras:
            if (camera.height, camera.width) != (SIDE, SIDE):
                raise ConfigError(
                    f"camera {camera.name!r} has pictures of {camera.height} x {camera.width} pixels; a world model "
                    f"that codes pictures itself needs {SIDE} x {SIDE}: ingest with --image-size {SIDE}"
                )
        self.cameras = nn.ModuleDict({camera.name: _convolutions(config.depth) for camera in spec.cameras})
        self.head = nn.Linear(_flat_size(config) * len(spec.cameras), config.embedding)
        self.norm = nn.LayerNorm(config.embedding, eps=NORM_EPS)

    @property
    def size(self) -> int:
        """E."""
        return self.head.out_features

    def forward(self, observation: Observation) -> Tensor:
        """Embed an observation's images (..., H, W, 3) of bytes: (..., E)."""
        leading = observation[next(iter(self.cameras))].shape[:-3]
        codes = [self._coded(network, observation[name].flatten(0, -4)) for name, network in self.cameras.items()]
        embedding = F.silu(self.norm(self.head(torch.cat(codes, -1))))
        return embedding if len(leading) == 1 else embedding.unflatten(0, leading)

    def _coded(self, network: nn.Module, images: Tensor) -> Tensor:
        """Code images (N, H, W, 3): (N, C). They keep their order in memory, which convolutions are quickest on."""
        return _in_blocks(lambda some: network(standardised(some)), images)


class PictureDecoder(nn.Module):
    """Latents (N, Z) -> all cameras' pictures (N, 3, H, W).

    Attributes:
        spread: of the pixels of each camera by name (3, H, W), which their errors are divided by.
    """

    def __init__(self, spec: Spec, config: JointConfig, latent_size: int) -> None:
        super().__init__()
        self.config = config
        self.into = nn.Linear(latent_size, 32 * config.depth)  # shared by the cameras, without an activation
        self.cameras = nn.ModuleDict({camera.name: _transposed(config.depth) for camera in spec.cameras})
        for name in self.cameras:
            self.register_buffer(f"spread_{name}", torch.ones(3, SIDE, SIDE))

    @property
    def numbers(self) -> int:
        """How many numbers a frame's pictures have."""
        return 3 * SIDE * SIDE * len(self.cameras)

    def fit(self, dataset: Dataset) -> None:
        """Set the pixels' spread from recorded rows, if they count by it."""
        if not self.config.by_spread:
            return
        rows = dataset.evenly(FITTED_ROWS)
        for name in self.cameras:
            pictures = standardised(torch.from_numpy(dataset.take(name, rows)))
            self.get_buffer(f"spread_{name}").copy_(pictures.std(0).clamp(min=LEAST_SPREAD))

    def forward(self, latents: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yield each camera's name and pictures (N, 3, H, W) of -1 to 1, of latents (N, Z)."""
        into = self.into(latents)
        for name, network in self.cameras.items():
            yield name, network(into.unflatten(-1, (-1, 1, 1)))

    def error(self, latents: Tensor, observation: Observation) -> Tensor:
        """Half the summed squared error (...) of frames' pictures, drawn from latents (..., Z)."""
        flat = latents.flatten(0, -2)
        images = {name: observation[name].flatten(0, -4) for name in self.cameras}

        def of_some(rows: Tensor) -> Tensor:
            total = torch.zeros(len(rows), device=rows.device)
            for name, drawn in self(flat[rows]):
                total = total + _PictureError.apply(drawn, images[name][rows], self.get_buffer(f"spread_{name}"))
            return total

        return _in_blocks(of_some, torch.arange(len(flat), device=flat.device)).view(latents.shape[:-1])

    @torch.no_grad()
    def draw(self, latents: Tensor) -> dict[str, Tensor]:
        """Draw each camera's images (N, H, W, 3) of bytes from latents (N, Z)."""
        return {name: as_images(pictures / 2) for name, pictures in self(latents)}


class _PictureError(torch.autograd.Function):
    """Half the summed squared error (N,) of pictures (N, 3, H, W) and images (N, H, W, 3), by spread (3, H, W).

    In place where it can be: left to autograd it takes three times as many passes over all pixels.
    """

    @staticmethod
    def forward(ctx: Any, drawn: Tensor, images: Tensor, spread: Tensor) -> Tensor:
        by_spread = spread.reciprocal()
        difference = standardised(images).sub_(drawn).mul_(by_spread)
        ctx.save_for_backward(difference, by_spread)
        return 0.5 * torch.linalg.vector_norm(difference, dim=(1, 2, 3)).square()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_error: Tensor) -> tuple[Tensor, None, None]:
        difference, by_spread = ctx.saved_tensors
        return (difference * by_spread).mul_(-d_error.view(-1, 1, 1, 1)), None, None


FEW_CHANNELS = 4
"""Channels out up to which `Transposed._by_pixels` is quicker."""


class Transposed(nn.ConvTranspose2d):
    """A transposed convolution of stride 2, computed in the quickest of three equal ways.

    Of one pixel it is a matrix product. With few channels out it is a convolution of the four pixels that each one
    becomes, set side by side afterwards. Both take half to two thirds of the time on a CPU.
    """

    def __init__(self, channels: int, out: int, kernel: int) -> None:
        super().__init__(channels, out, kernel, 2)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Double pictures (N, C, H, W): (N, C', 2 H + K - 2, 2 W + K - 2)."""
        del output_size
        if x.shape[-2:] == (1, 1):
            return self._of_one_pixel(x.flatten(1))
        if self.kernel_size[0] % 2 == 0 and self.out_channels <= FEW_CHANNELS:
            return self._by_pixels(x)
        return super().forward(x)

    def _of_one_pixel(self, x: Tensor) -> Tensor:
        """As `forward`, of x (N, C)."""
        assert self.bias is not None
        kernel = self.kernel_size[0]
        out = F.linear(x, self.weight.permute(2, 3, 1, 0).flatten(0, 2), self.bias.repeat(kernel * kernel))
        return out.unflatten(1, (kernel, kernel, self.out_channels)).permute(0, 3, 1, 2)

    def _by_pixels(self, x: Tensor) -> Tensor:
        """As `forward`: the kernel's even and odd rows and columns are four kernels of half its size."""
        assert self.bias is not None
        half = self.kernel_size[0] // 2
        # (in, out, K, K) -> (out, row's parity, column's parity, in, K / 2, K / 2), turned round.
        kernels = self.weight.unflatten(3, (half, 2)).unflatten(2, (half, 2)).flip(2, 4).permute(1, 3, 5, 0, 2, 4)
        kernels = kernels.flatten(0, 2).contiguous(memory_format=torch.channels_last)
        return F.pixel_shuffle(F.conv2d(x, kernels, self.bias.repeat_interleave(4), padding=half - 1), 2)


def standardised(images: Tensor) -> Tensor:
    """Turn images (N, H, W, 3) of bytes into pictures (N, 3, H, W) of -1 to 1."""
    return images.permute(0, 3, 1, 2).float().mul_(2 / 255).sub_(1)


def _convolutions(depth: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels, out in ((3, depth), (depth, 2 * depth), (2 * depth, 4 * depth), (4 * depth, 8 * depth)):
        layers += [nn.Conv2d(channels, out, KERNEL, 2), nn.SiLU()]
    return _quick(nn.Sequential(*layers, nn.Flatten()))


def _transposed(depth: int) -> nn.Sequential:
    sizes = (32 * depth, 4 * depth, 2 * depth, depth, 3)
    layers: list[nn.Module] = []
    for channels, out, kernel in zip(sizes[:-1], sizes[1:], DECODER_KERNELS, strict=True):
        layers += [Transposed(channels, out, kernel), nn.SiLU()]
    return _quick(nn.Sequential(*layers[:-1]))


def _quick(network: nn.Sequential) -> nn.Sequential:
    """Keep kernels as convolutions are quickest on them: channels last, as images are."""
    for parameter in network.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return network


def _flat_size(config: JointConfig) -> int:
    """Numbers that one camera's convolutions end in."""
    side = SIDE
    for _ in range(4):
        side = (side - KERNEL) // 2 + 1
    return 8 * config.depth * side * side


def _in_blocks(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return `function` of x (N, ...), in blocks where no gradient is wanted."""
    if torch.is_grad_enabled() or len(x) <= BLOCK:
        return function(x)
    return torch.cat([function(block) for block in x.split(BLOCK)])
