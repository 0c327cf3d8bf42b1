"""Networks: constructors that read like the papers' tables, the layers torch lacks, and pretrained weights."""

from cutaway.nets.alexnet import AlexNet, alexnet, alexnet2012
from cutaway.nets.counts import connections, multiply_adds, parameters
from cutaway.nets.fast_cifar import FastCifar, fast_cifar
from cutaway.nets.googlenet import GoogLeNet, googlenet
from cutaway.nets.initialize import INITS, initialize
from cutaway.nets.layers import (
    ACTIVATIONS,
    POOLINGS,
    MedianPool2d,
    Residual,
    ScaledTanh,
    StridedPool2d,
    Subsample,
    TableConv2d,
    activation,
    pooling,
)
from cutaway.nets.lenet import LeNet5, LeNet1989, lenet5, lenet1989
from cutaway.nets.local import LocallyConnected1d, LocallyConnected2d, output_size
from cutaway.nets.mlp import mlp
from cutaway.nets.mobilenet import MobileNetV2, mobilenet_v2
from cutaway.nets.monte_carlo import MonteCarlo, monte_carlo
from cutaway.nets.normalize import IMAGENET, Normalized, normalized
from cutaway.nets.norms import NORMS, norm
from cutaway.nets.pretrained import load, put, read
from cutaway.nets.registry import NAMES, make
from cutaway.nets.resnet import ResNet, resnet, resnet18, resnet34, resnet50, resnet101, resnet152
from cutaway.nets.resnet_cifar import (
    CifarResNet,
    plain20_cifar,
    plain32_cifar,
    plain44_cifar,
    plain56_cifar,
    plain110_cifar,
    resnet20_cifar,
    resnet32_cifar,
    resnet44_cifar,
    resnet56_cifar,
    resnet110_cifar,
    resnet1202_cifar,
    resnet_cifar,
)
from cutaway.nets.squeezenet import SqueezeNet, squeezenet1_0, squeezenet1_1
from cutaway.nets.vgg import VGG, vgg, vgg11, vgg11_bn, vgg13, vgg13_bn, vgg16, vgg16_bn, vgg19, vgg19_bn

__all__ = [
    "ACTIVATIONS",
    "IMAGENET",
    "INITS",
    "NAMES",
    "NORMS",
    "POOLINGS",
    "VGG",
    "AlexNet",
    "CifarResNet",
    "FastCifar",
    "GoogLeNet",
    "LeNet5",
    "LeNet1989",
    "LocallyConnected1d",
    "LocallyConnected2d",
    "MedianPool2d",
    "MobileNetV2",
    "MonteCarlo",
    "Normalized",
    "ResNet",
    "Residual",
    "ScaledTanh",
    "SqueezeNet",
    "StridedPool2d",
    "Subsample",
    "TableConv2d",
    "activation",
    "alexnet",
    "alexnet2012",
    "connections",
    "fast_cifar",
    "googlenet",
    "initialize",
    "lenet5",
    "lenet1989",
    "load",
    "make",
    "mlp",
    "mobilenet_v2",
    "monte_carlo",
    "multiply_adds",
    "norm",
    "normalized",
    "output_size",
    "parameters",
    "plain20_cifar",
    "plain32_cifar",
    "plain44_cifar",
    "plain56_cifar",
    "plain110_cifar",
    "pooling",
    "put",
    "read",
    "resnet",
    "resnet18",
    "resnet20_cifar",
    "resnet32_cifar",
    "resnet34",
    "resnet44_cifar",
    "resnet50",
    "resnet56_cifar",
    "resnet101",
    "resnet110_cifar",
    "resnet152",
    "resnet1202_cifar",
    "resnet_cifar",
    "squeezenet1_0",
    "squeezenet1_1",
    "vgg",
    "vgg11",
    "vgg11_bn",
    "vgg13",
    "vgg13_bn",
    "vgg16",
    "vgg16_bn",
    "vgg19",
    "vgg19_bn",
]
