"""Exact rewrites of a network's graph: other modules, same function, same names.

Every rewrite is known to checkpoints by its name in `REWRITES` and is applied again on loading.
"""

import copy
from collections.abc import Callable, Collection, Iterator, Mapping

import torch
from torch import Tensor, nn

from compress.graph import flow, layout, plain, uses


def deconv_to_conv(net: nn.Module) -> nn.Module:
    """A copy of `net` in which every stride-1 ConvTranspose2d is the equal Conv2d.

    y[o] = sum over taps of w[i, o, k-1-tap] x[i] is a correlation with the kernel transposed in its
    channels and flipped in space, at padding dilation * (k - 1) - p. ModelOpt, ASP and TensorRT
    know 2:4 sparsity for Conv2d only. Left alone: other strides, groups, output padding, padding
    larger than dilation * (k - 1), classes with a forward of their own, hooks, weights that another
    layer has, too: the copies would be trained apart; layers that the network's code uses otherwise
    than as `layer(x)`, in training or not, such as a function that takes their weight; and all of a
    network whose code looks at the class of its layers, so that others would run. What only your
    own code calls, such as a penalty on weights, sees the weight of the convolution.
    """
    names = [name for name, module in net.named_modules() if _is_plain_deconvolution(module)]
    used = uses.seen(net, names) if names else None
    made = _rewritten(net, () if used is None else used.otherwise)
    same = used is None or not used.path or uses.path(made, used) == used.path
    return made if same else copy.deepcopy(net)


def _rewritten(net: nn.Module, but: Collection[str]) -> nn.Module:
    """A copy of `net` with convolutions in place of deconvolutions, all that can be but some."""
    net = copy.deepcopy(net)
    left, owners = {net.get_submodule(name) for name in but}, plain.owners(net)
    made: dict[nn.Module, nn.Module] = {}
    for name, module in list(net.named_modules(remove_duplicate=False)):
        if isinstance(module, nn.ConvTranspose2d) and is_plain(module):
            shared = any(owners[id(p)] > 1 for p in module.parameters(recurse=False))
            if shared or plain.hooked(module) or module in left:
                continue
            made.setdefault(module, _as_conv(module))  # one module may have several names
            net.set_submodule(name, made[module])
    return net


def fold_batchnorm(net: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """A copy of `net`, in eval mode, whose BatchNorm layers are folded where that is exact.

    BatchNorm is y = scale * x + shift in each channel. Behind a convolution it goes into the
    weights of that; before one it does only where the convolution pads nothing: a border of zeros
    would have to be one of -shift / scale.

    Returns:
        The copy, an Identity in the place of each folded layer, and the names of those. A network
        that torch.fx cannot trace is returned as it is.
    """
    net = copy.deepcopy(net).eval()
    folded = []
    for norm_name, conv_name, before in _neighbours(net):
        norm, conv = net.get_submodule(norm_name), net.get_submodule(conv_name)
        if not isinstance(conv, nn.Conv2d | nn.ConvTranspose2d) or norm_name in folded:
            continue
        if isinstance(norm, nn.BatchNorm2d) and _exact(norm, conv, before=before):
            _fold(norm, conv, before=before)
            net.set_submodule(norm_name, nn.Identity())
            folded.append(norm_name)
    return net, tuple(folded)


REWRITES: Mapping[str, Callable[[nn.Module], nn.Module]] = {"deconv_to_conv": deconv_to_conv}


def equal_padding(module: nn.ConvTranspose2d) -> tuple[int, ...]:
    """Padding of the convolution that a stride-1 deconvolution equals."""
    assert not isinstance(module.padding, str)  # ConvTranspose2d takes numbers only
    sizes = zip(module.kernel_size, module.dilation, module.padding, strict=True)
    return tuple(d * (k - 1) - p for k, d, p in sizes)


def is_plain(module: nn.ConvTranspose2d) -> bool:
    """Whether a deconvolution equals a convolution."""
    return (
        not plain.computed(module)
        and not plain.own_forward(module)
        and set(module.stride) == {1}
        and set(module.output_padding) == {0}
        and module.groups == 1
        and min(equal_padding(module)) >= 0
    )


def _is_plain_deconvolution(module: nn.Module) -> bool:
    return isinstance(module, nn.ConvTranspose2d) and is_plain(module)


def _as_conv(module: nn.ConvTranspose2d) -> nn.Conv2d:
    conv = nn.Conv2d(
        module.in_channels,
        module.out_channels,
        module.kernel_size,  # type: ignore[arg-type]
        padding=equal_padding(module),  # type: ignore[arg-type]
        dilation=module.dilation,  # type: ignore[arg-type]
        bias=module.bias is not None,
        device=module.weight.device,
        dtype=module.weight.dtype,
    )
    with torch.no_grad():
        conv.weight.copy_(module.weight.transpose(0, 1).flip(2, 3))
        if module.bias is not None and conv.bias is not None:
            conv.bias.copy_(module.bias).requires_grad_(module.bias.requires_grad)
    conv.weight.requires_grad_(module.weight.requires_grad)
    return conv.train(module.training)


def _neighbours(net: nn.Module) -> Iterator[tuple[str, str, bool]]:
    """Names of BatchNorm layers, of the one layer behind (True) or before them (False)."""
    nodes = flow.nodes(net)
    kinds = flow.called_once(net, nodes)
    for node in nodes:
        name = str(node.target)
        if node.op != "call_module" or not isinstance(kinds.get(name), nn.BatchNorm2d):
            continue
        (source,) = node.all_input_nodes
        users = [str(user.target) for user in node.users]
        if len(users) == 1 and users[0] in kinds:
            yield name, users[0], True
        if len(source.users) == 1 and str(source.target) in kinds:
            yield name, str(source.target), False


def _exact(norm: nn.BatchNorm2d, conv: nn.Conv2d | nn.ConvTranspose2d, *, before: bool) -> bool:
    """Whether a BatchNorm before or behind `conv` can go into its weights."""
    if norm.running_mean is None:  # it scales by the statistics of each batch
        return False
    if plain.computed(conv) or plain.hooked(conv) or plain.hooked(norm):
        return False
    if conv.groups != 1 or conv.padding_mode != "zeros":
        return False
    if not before:
        return True
    # A deconvolution pads by itself wherever its kernel is larger than a pixel.
    alone = isinstance(conv, nn.Conv2d) or set(conv.kernel_size) == set(conv.stride) == {1}
    return alone and not isinstance(conv.padding, str) and set(conv.padding) == {0}


def _fold(norm: nn.BatchNorm2d, conv: nn.Conv2d | nn.ConvTranspose2d, *, before: bool) -> None:
    """Put `norm` into the weights of `conv`, in place; computed in float64."""
    scale, shift = _affine(norm)
    out, into = layout.order(transposed=layout.transposed(conv))
    axis = into if before else out
    weight, dtype = conv.weight.detach().double(), conv.weight.dtype
    bias = torch.zeros(conv.out_channels, dtype=torch.float64, device=weight.device)
    if conv.bias is not None:
        bias = conv.bias.detach().double()
    shape = [1, 1, 1, 1]
    shape[axis] = -1
    if before:
        other = tuple(k for k in range(4) if k != 1 - axis)
        bias = bias + (weight * shift.view(shape)).sum(dim=other)
    else:
        bias = bias * scale + shift
    conv.weight = nn.Parameter((weight * scale.view(shape)).to(dtype))
    conv.bias = nn.Parameter(bias.to(dtype))


def _affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Scale and shift of each channel, (C,) float64."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.detach().double()
    shift = -norm.running_mean.double() * scale
    return scale, shift if norm.bias is None else shift + norm.bias.detach().double()
