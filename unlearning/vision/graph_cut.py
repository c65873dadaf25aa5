"""Cuts a network below all that moves: a part with frozen outputs, and the tail above it.

torch.fx follows the forward pass into every module that moves in part. The cut may lie within a block: where a ViT's last
attention projection is adapted, that projection's input and the residual that passes it by are the cut's edge. Where what
lies above reads the class token alone, as in that ViT, so does the edge: a sixty-fifth of what it would be.
"""

import copy
import operator
from collections import namedtuple
from collections.abc import Iterable
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from unlearning.core.words import first_line, say
from unlearning.vision.dropout import Dropout

# Two fx.GraphModules: below maps images to a tuple of tensors, tail takes these and gives what the network gives.
Cut = namedtuple("Cut", "below tail")


def cut_at(model: nn.Module, moving: set[nn.Module], x: torch.Tensor) -> Cut | None:
    """Cut `model` below all that depends on the modules in `moving`: a Cut, or None where that is nothing, everything, or
    torch.fx can't follow the forward pass. x: a few images, float32 (B, C, H, W), B > 1, on the model's device."""
    try:
        graph = _Tracer(moving).trace(model)
    except Exception as error:  # a forward pass that branches on values fails in whatever way it happens to
        say(f"frozen layers run each time, slower and with the same result: {first_line(error)}")
        return None
    moved: set[fx.Node] = set()
    for node in graph.nodes:
        if moved & set(node.all_input_nodes) or not moving.isdisjoint(_modules(model, node)):
            moved.add(node)
    output = list(graph.nodes)[-1]
    if output not in moved:
        return None
    # Only tensors with a row for each image can be kept; the tail makes others (sizes, a position code) again.
    first, again, fewer = (_Frozen(model, graph=graph).values(some, moved) for some in (x, x, x[1:]))
    batched = first.keys() & fewer.keys()
    if any(not torch.equal(first[node], again[node]) for node in batched):
        return None  # random, though no module says so
    above = _upstream(output.all_input_nodes, batched)
    edge = [node for node in graph.nodes if node in above and node in batched]
    answer = output.args[0]
    cut = Cut(_part(model, graph, [], _upstream(edge, ()), tuple(edge)), _part(model, graph, edge, above, answer))
    if _reads_the_first_token_alone(cut.tail, [first[node] for node in edge]):
        _give_first_tokens(cut.below)
        for module in cut.tail.modules():
            if isinstance(module, Dropout):
                module.tokens = first[edge[0]].shape[1]
    return cut


def moving_in_training(model: nn.Module) -> set[nn.Module]:
    """The modules that train parameters of their own, and those that in training mode depend on the batch or on chance."""
    return {
        module
        for module in model.modules()
        if any(p.requires_grad for p in module.parameters(recurse=False))
        or (module.training and _moves_by_batch_or_chance(module))
    }


def _moves_by_batch_or_chance(module):
    """True if a module in training mode depends on the batch or on chance."""
    return isinstance(module, _BatchNorm) or bool(getattr(module, "p", None) or getattr(module, "drop_prob", None))


def modules_owning(model: nn.Module, names: Iterable[str]) -> set[nn.Module]:
    """Modules of which a parameter or buffer is named, as in a state dict."""
    return {model.get_submodule(name.rpartition(".")[0]) for name in names}


def _modules(model, node):
    """The modules that a node of a graph uses."""
    if node.op == "call_module":
        return model.get_submodule(node.target).modules()
    return [model.get_submodule(node.target.rpartition(".")[0])] if node.op == "get_attr" else []


def _upstream(nodes, edge):
    """`nodes` and all that they are made from, up to those in `edge` and with these: a set."""
    found, ahead = set(), list(nodes)
    while ahead:
        node = ahead.pop()
        if node not in found:
            found.add(node)
            ahead += [] if node in edge else node.all_input_nodes
    return found


def _part(model, graph, given, nodes, answer):
    """`nodes` of a graph as a module that takes `given` and returns `answer`; its submodules are those of `model`."""
    part = fx.Graph()
    copies = {node: part.placeholder(node.name) for node in given}
    for node in graph.nodes:
        if node in nodes and node not in copies:
            copies[node] = part.node_copy(node, copies.__getitem__)
    part.output(fx.node.map_arg(answer, copies.__getitem__))
    return fx.GraphModule(model, part)


def _reads_the_first_token_alone(tail, edge):
    """True if a tail answers sequences of tokens and the first token of each alike.

    edge: what lies at its edge for some images. The tail is asked, with random tokens. And its head has to read that token
    alone, not answer for each: what a head reads is looked at too. What draws at random for each token, but for LoRA's
    dropout, or takes statistics over tokens in training, needs them all.
    """
    shapes = {(value.ndim, *value.shape[1:2]) for value in edge}
    if len(shapes) != 1 or edge[0].ndim != 3 or edge[0].shape[1] == 1:
        return False
    if any(_moves_by_batch_or_chance(module) and not isinstance(module, Dropout) for module in tail.modules()):
        return False
    draw, tail = torch.Generator().manual_seed(0), copy.deepcopy(tail).eval()
    tokens = [torch.randn(value.shape, generator=draw).to(value) for value in edge]
    read: list[tuple[int, int]] = []  # of each linear layer, in the order of the calls
    for module in tail.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(lambda layer, given: read.append((layer.out_features, given[0].ndim)))
    with torch.no_grad():
        for parameter in tail.parameters():  # what is zero before it is trained might hide that tokens are mixed
            parameter += 0.05 * torch.randn(parameter.shape, generator=draw).to(parameter)
        try:
            run = tail.forward  # torch.fx prints what a call of a part raises
            whole, alone = run(*tokens), run(*(value[:, :1] for value in tokens))
            torch.testing.assert_close(alone, whole, rtol=1e-3, atol=1e-4)
        except Exception:  # other values, another shape, or no answer at all to a sequence of one
            return False
    return not isinstance(whole, torch.Tensor) or (whole.shape[-1], 3) not in read


def _give_first_tokens(below):
    """Change a part so that it gives the first token of each sequence that it gives."""
    (output,) = below.graph.find_nodes(op="output")
    with below.graph.inserting_before(output):
        firsts = [below.graph.call_function(operator.getitem, (node, (slice(None), slice(1)))) for node in output.args[0]]
    output.args = (tuple(firsts),)
    below.recompile()


class _Tracer(fx.Tracer):
    """Goes into a module only if it moves in part."""

    def __init__(self, moving):
        super().__init__()
        from peft.tuners.tuners_utils import BaseTunerLayer
        from peft.utils import ModulesToSaveWrapper

        self.moving, self.wrappers = moving, (BaseTunerLayer, ModulesToSaveWrapper)

    def is_leaf_module(self, module, name):
        layer = isinstance(module, self.wrappers) or super().is_leaf_module(module, name)
        return layer or not any(module.children()) or self.moving.isdisjoint(module.modules())


class _Frozen(fx.Interpreter):
    """Runs a graph, skipping nodes that depend on trained modules."""

    @torch.no_grad()
    def values(self, x, moved):
        """{node: tensor} of those that have a row for each of the images x."""
        self.count, self.moved, self.found = len(x), moved, {}
        self.run(x)
        return self.found

    def run_node(self, node):
        if node in self.moved:
            return None
        value = super().run_node(node)
        if isinstance(value, torch.Tensor) and value.ndim and len(value) == self.count:
            self.found[node] = value
        return value


def unwrap_peft(model: Any) -> nn.Module:
    """The network within a PeftModel; any other network as it is."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
