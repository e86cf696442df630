"""Networks of other packages, as users import them; `python tests/zoo/installed.py` tries all.

Prints one row of docs/networks.md for each network whose package is installed.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compress.base.errors import UsageError
from compress.checkpoint.noise_level import AtNoiseLevel
from compress.graph import cost
from compress.graph.rewrite import deconv_to_conv
from compress.pruning import plan as pruning
from compress.pruning.options import PruneOptions
from compress.sparsity import eligibility

LEVELS = (16, 32, 64, 128)


class First(nn.Module):
    """The first of several outputs."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.net(x)[0]
        return y


class Grey(nn.Module):
    """A network of colour images."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.net(x.repeat(1, 3, 1, 1)).mean(1, keepdim=True)
        return y


@dataclass(frozen=True)
class Case:
    """One network of a package."""

    package: str
    """What is imported."""
    name: str
    build: Callable[[], nn.Module]
    refused: str = ""
    """What the refusal says, for one of which half of the MACs cannot go."""
    align: int = 16


def of(module: str, name: str, *given: object, **options: object) -> Callable[[], nn.Module]:
    return lambda: getattr(importlib.import_module(module), name)(*given, **options)


def ldct(name: str) -> Callable[[], nn.Module]:
    return of(f"ldctbench.methods.{name}.network", "Model", None)


def deepinv(name: str, *given: object, **options: object) -> Callable[[], nn.Module]:
    return of("deepinv.models", name, *given, **options)


def monai(name: str, *given: object, **options: object) -> Callable[[], nn.Module]:
    return of("monai.networks.nets", name, *given, **options)


def smp(name: str, encoder: str = "resnet18", **options: object) -> Callable[[], nn.Module]:
    given = {"encoder_weights": None, "in_channels": 1, "classes": 1, **options}
    return of("segmentation_models_pytorch", name, encoder, **given)


def told(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: AtNoiseLevel(build(), 0.05)


def first(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: First(build())


def grey(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: Grey(build())


SAME = {"in_channels": 1, "out_channels": 1}
PLAIN = {**SAME, "pretrained": None}
RESIDUAL = {"num_res_units": 2}
NAFNET = "spandrel.architectures.NAFNet.__arch.NAFNet_arch"
CASES = (
    Case("ldctbench", "CNN10", ldct("cnn10")),
    Case("ldctbench", "RED-CNN, generator of DU-GAN", ldct("redcnn")),
    Case("ldctbench", "ResNet", ldct("resnet")),
    Case("ldctbench", "QAE", ldct("qae"), "no convolution or linear layer"),
    Case("ldctbench", "WGAN-VGG", ldct("wganvgg"), align=8),
    Case("deepinv", "DnCNN", deepinv("DnCNN", **PLAIN)),
    Case("deepinv", "UNet", deepinv("UNet", **SAME)),
    Case("deepinv", "FFDNet", told(deepinv("FFDNet", pretrained=None))),
    Case("deepinv", "DRUNet", told(deepinv("DRUNet", **PLAIN))),
    Case("deepinv", "DScCP", grey(deepinv("DScCP", pretrained=None)), "round_to"),
    Case("spandrel", "NAFNet, width 32", of(
        NAFNET, "NAFNet", img_channel=1, width=32, middle_blk_num=1, enc_blk_nums=[1],
        dec_blk_nums=[1]), align=8),
    Case("monai", "BasicUNet", monai("BasicUNet", 2, 1, 1)),
    Case("monai", "BasicUNet, batch norm", monai("BasicUNet", 2, 1, 1, norm="batch")),
    Case("monai", "BasicUNet, PixelShuffle",
         monai("BasicUNet", 2, 1, 1, norm="batch", upsample="pixelshuffle")),
    Case("monai", "BasicUNet++", first(monai("BasicUNetPlusPlus", 2, 1, 1))),
    Case("monai", "UNet, residual units", monai("UNet", 2, 1, 1, LEVELS, (2, 2, 2), **RESIDUAL)),
    Case("monai", "UNet, batch norm",
         monai("UNet", 2, 1, 1, LEVELS, (2, 2, 2), norm="BATCH", **RESIDUAL)),
    Case("monai", "UNet, LeakyReLU",
         monai("UNet", 2, 1, 1, LEVELS, (2, 2, 2), act="LEAKYRELU", **RESIDUAL)),
    Case("monai", "UNet, LeakyReLU, affine norm", monai(
        "UNet", 2, 1, 1, LEVELS, (2, 2, 2), act="LEAKYRELU", **RESIDUAL,
        norm=("INSTANCE", {"affine": True}))),
    Case("monai", "AttentionUnet", monai("AttentionUnet", 2, 1, 1, LEVELS, (2, 2, 2))),
    Case("monai", "SegResNet", monai("SegResNet", 2, 32, **SAME), "normalises over channels"),
    Case("monai", "SegResNet, batch norm", monai("SegResNet", 2, 32, **SAME, norm="batch")),
    Case("monai", "DynUNet", monai(
        "DynUNet", 2, 1, 1, [3] * 4, [1, 2, 2, 2], [2] * 3, filters=LEVELS)),
    Case("monai", "FlexibleUNet, ResNet-18", monai(
        "FlexibleUNet", 1, 1, "resnet18", pretrained=False, spatial_dims=2)),
    Case("monai", "HighResNet", monai("HighResNet", 2, 1, 1)),
    Case("monai", "SwinUNETR", monai("SwinUNETR", **SAME, feature_size=24, spatial_dims=2)),
    Case("monai", "UNETR of 64 x 64", monai(
        "UNETR", 1, 1, (64, 64), 16, 96, 192, 4, spatial_dims=2)),
    Case("monai", "MedNeXt-S", monai("MedNeXtS", spatial_dims=2, **SAME)),
    Case("segmentation_models_pytorch", "Unet", smp("Unet")),
    Case("segmentation_models_pytorch", "Unet, scSE",
         smp("Unet", decoder_attention_type="scse")),
    Case("segmentation_models_pytorch", "Unet, EfficientNet-B0", smp("Unet", "efficientnet-b0")),
    Case("segmentation_models_pytorch", "Unet, MobileNetV2", smp("Unet", "mobilenet_v2")),
    Case("segmentation_models_pytorch", "Unet++", smp("UnetPlusPlus")),
    Case("segmentation_models_pytorch", "MAnet", smp("MAnet")),
    Case("segmentation_models_pytorch", "Linknet", smp("Linknet")),
    Case("segmentation_models_pytorch", "FPN", smp("FPN")),
    Case("segmentation_models_pytorch", "PSPNet", smp("PSPNet")),
    Case("segmentation_models_pytorch", "PAN", smp("PAN")),
    Case("segmentation_models_pytorch", "DeepLabV3", smp("DeepLabV3")),
    Case("segmentation_models_pytorch", "DeepLabV3+", smp("DeepLabV3Plus")),
    Case("segmentation_models_pytorch", "UPerNet", smp("UPerNet")),
    Case("segmentation_models_pytorch", "SegFormer", smp("Segformer")),
    Case("segmentation_models_pytorch", "Unet, ConvNeXtV2", smp(
        "Unet", "tu-convnextv2_atto", encoder_depth=4, decoder_channels=(128, 64, 32, 16))),
    Case("segmentation_models_pytorch", "Unet, ResNeSt-14d", smp("Unet", "tu-resnest14d")),
    Case("segmentation_models_pytorch", "Unet, ECAResNet-26t", smp("Unet", "tu-ecaresnet26t")),
    Case("deepinv", "SwinIR", deepinv(
        "SwinIR", in_chans=1, img_size=64, depths=[2, 2], num_heads=[3, 3], embed_dim=60,
        upsampler="", upscale=1, pretrained=None), "multiplies them with each other"),
    Case("deepinv", "Restormer, dim 32", deepinv(
        "Restormer", **PLAIN, dim=32, num_blocks=[1, 1, 1, 1])),
    Case("deepinv", "SCUNet", deepinv("SCUNet", 1, [1] * 7, 64, pretrained=None)),
    Case("deepinv", "ADMUNet", told(deepinv("ADMUNet", **PLAIN, model_channels=32)),
         "products of values"),
    Case("deepinv", "GSDRUNet", told(deepinv("GSDRUNet", **PLAIN)), "mixes channels"),
)  # fmt: skip


def row(case: Case) -> str:
    """Try a network: build, prune half of its MACs, compare; a row of the table in Markdown."""
    torch.manual_seed(0)
    net = deconv_to_conv(case.build()).eval()
    params = sum(p.numel() for p in net.parameters())
    try:
        plan = pruning.plan(net, PruneOptions(amount=0.5, round_to=case.align))
    except UsageError as error:
        return f"| {case.name} | {case.package} | {params:,} | refused | | | {error} |"
    small = plan.apply(net)
    before, after = cost.cost(net), cost.cost(small)
    real = 1 - after.macs / before.macs
    assert abs(real - plan.removed["macs"]) < 1e-12
    layers = cost.compressible(small).values()
    able = sum(not eligibility.refusal(layer) for layer in layers)
    held = [g for g in plan.groups if g.fixed and not g.fixed.startswith("feeds")]
    note = f"{len(held)} of {len(plan.groups)} groups stay: {held[0].fixed}" if held else ""
    return (
        f"| {case.name} | {case.package} | {params:,} | {real:.1%} | {plan.difference:.0e} "
        f"| {able} of {len(layers)} | {note} |"
    )


if __name__ == "__main__":
    for case in CASES:
        if importlib.util.find_spec(case.package):
            print(row(case), flush=True)
    sys.exit()
