"""The networks of the coverage run, all with random weights.

One architecture of every family of timm, encoders and decoders of transformers, and the recurrent networks and the
transformer of `torch.nn`. The smallest architecture of a family is taken; where even that one has more than 60 million
parameters, a shallower one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

BATCH = 2

# family (a file of timm/models): architecture, and what makes it small enough
VISION: dict[str, tuple[str, dict[str, Any]]] = {
    "beit": ("beit_base_patch16_224", {"depth": 4}),
    "byoanet": ("halonet_h1", {}),
    "byobnet": ("test_byobnet", {}),
    "cait": ("cait_xxs24_224", {}),
    "coat": ("coat_tiny", {}),
    "convit": ("convit_tiny", {}),
    "convmixer": ("convmixer_768_32", {}),
    "convnext": ("convnext_atto", {}),
    "cpubone": ("cpubone_nano", {}),
    "crossvit": ("crossvit_tiny_240", {}),
    "csatv2": ("csatv2", {}),
    "cspnet": ("darknet17", {}),
    "cspnext": ("cspnext_tiny", {}),
    "davit": ("davit_tiny", {}),
    "deepseek_vit": ("deepseek_vit_412m", {"depth": 2}),
    "deit": ("deit_tiny_distilled_patch16_224", {}),
    "densenet": ("densenet121", {}),
    "dla": ("dla46x_c", {}),
    "dpn": ("dpn48b", {}),
    "edgenext": ("edgenext_xx_small", {}),
    "efficientformer": ("efficientformer_l1", {}),
    "efficientformer_v2": ("efficientformerv2_s0", {}),
    "efficientnet": ("test_efficientnet", {}),
    "efficientvim": ("efficientvim_m1", {}),
    "efficientvit_mit": ("efficientvit_b0", {}),
    "efficientvit_msra": ("efficientvit_m0", {}),
    "eva": ("eva02_tiny_patch14_224", {}),
    "fasternet": ("fasternet_t0", {}),
    "fastvit": ("fastvit_t8", {}),
    "focalnet": ("focalnet_tiny_srf", {}),
    "gcvit": ("gcvit_xxtiny", {}),
    "gemma4_vit": ("gemma4_vit_167m", {"depth": 2}),
    "ghostnet": ("ghostnet_050", {}),
    "hardcorenas": ("hardcorenas_a", {}),
    "hgnet": ("hgnetv2_b0", {}),
    "hiera": ("hiera_tiny_224", {}),
    "hieradet_sam2": ("sam2_hiera_tiny", {}),
    "hrnet": ("hrnet_w18_small", {}),
    "iformer": ("iformer_t", {}),
    "inception_next": ("inception_next_atto", {}),
    "inception_resnet_v2": ("inception_resnet_v2", {}),
    "inception_v3": ("inception_v3", {}),
    "inception_v4": ("inception_v4", {}),
    "lcnetv2": ("lcnetv2_small", {}),
    "levit": ("levit_128s", {}),
    "lowformer": ("lowformer_b0", {}),
    "mambaout": ("test_mambaout", {}),
    "maxxvit": ("test_maxvit", {}),
    "metaformer": ("poolformer_s12", {}),
    "mlp_mixer": ("gmlp_ti16_224", {}),
    "mobilenetv3": ("mobilenetv3_small_050", {}),
    "mobilenetv5": ("mobilenetv5_base", {}),
    "mobilevit": ("mobilevitv2_050", {}),
    "mvitv2": ("mvitv2_tiny", {}),
    "naflexvit": ("naflexvit_base_patch16_gap", {"depth": 4}),
    "nasnet": ("nasnetalarge", {}),
    "nest": ("nest_tiny", {}),
    "nextvit": ("nextvit_small", {}),
    "nfnet": ("test_nfnet", {}),
    "pit": ("pit_ti_distilled_224", {}),
    "pnasnet": ("pnasnet5large", {}),
    "pvt_v2": ("pvt_v2_b0", {}),
    "qwen3_vit": ("qwen3_vit_88m", {"depth": 4}),
    "rdnet": ("rdnet_tiny", {}),
    "regnet": ("regnety_002", {}),
    "repghost": ("repghostnet_050", {}),
    "repvit": ("repvit_m0_9", {}),
    "res2net": ("res2net50_48w_2s", {}),
    "resnest": ("resnest14d", {}),
    "resnet": ("resnet18", {}),
    "resnetv2": ("resnetv2_50x1_bit", {}),
    "rexnet": ("rexnetr_100", {}),
    "selecsls": ("selecsls42b", {}),
    "senet": ("legacy_seresnet18", {}),
    "sequencer": ("sequencer2d_s", {}),
    "shvit": ("shvit_s1", {}),
    "sknet": ("skresnet18", {}),
    "starnet": ("starnet_s050", {}),
    "swiftformer": ("swiftformer_xs", {}),
    "swin_transformer": ("swin_tiny_patch4_window7_224", {}),
    "swin_transformer_v2": ("swinv2_tiny_window8_256", {}),
    "swin_transformer_v2_cr": ("swinv2_cr_tiny_224", {}),
    "tiny_vit": ("tiny_vit_5m_224", {}),
    "tnt": ("tnt_s_patch16_224", {}),
    "tresnet": ("tresnet_m", {}),
    "twins": ("twins_svt_small", {}),
    "vgg": ("vgg11_bn", {"num_classes": 10, "feature_window_size": None}),
    "visformer": ("visformer_tiny", {}),
    "vision_transformer": ("vit_tiny_patch16_224", {}),
    "vision_transformer_hybrid": ("vit_tiny_r_s16_p8_224", {}),
    "vision_transformer_relpos": ("test_vit_relpos", {}),
    "vision_transformer_sam": ("samvit_base_patch16_224", {"depth": 4}),
    "vitamin": ("vitamin_small_224", {}),
    "volo": ("volo_d1_224", {}),
    "vovnet": ("ese_vovnet19b_slim_dw", {}),
    "xception": ("legacy_xception", {}),
    "xception_aligned": ("xception41p", {}),
    "xcit": ("xcit_nano_12_p16_224", {}),
}


@dataclass(frozen=True)
class Subject:
    """A network with example inputs."""

    model: nn.Module
    inputs: tuple = ()
    keywords: Mapping[str, Any] = field(default_factory=dict)


def define_torchvision() -> None:
    """timm and transformers import torchvision, which names two operators at its import that it only has beside a CUDA
    build of PyTorch."""
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def vision(family: str) -> Subject:
    """The family's architecture with an input of its native size."""
    import timm

    name, options = VISION[family]
    model = timm.create_model(name, pretrained=False, **options)
    return Subject(model, (torch.randn(BATCH, *model.default_cfg["input_size"]),))


def tokens(length: int, count: int = 99) -> torch.Tensor:
    """Random token ids, (batch, length)."""
    return torch.randint(3, count, (BATCH, length))


def bert() -> Subject:
    """BERT with a padding mask."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=99, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=128,
        max_position_embeddings=64,
    )  # fmt: skip
    mask = torch.ones(BATCH, 11, dtype=torch.long)
    mask[1, 8:] = 0
    return Subject(BertModel(config), (), {"input_ids": tokens(11), "attention_mask": mask})


def gpt2() -> Subject:
    """GPT-2 with its language-model head."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=99, n_positions=64, n_embd=64, n_layer=3, n_head=4, bos_token_id=0, eos_token_id=0
    )  # fmt: skip
    return Subject(GPT2LMHeadModel(config), (tokens(11),), {"use_cache": False})


def vit() -> Subject:
    """The vision transformer of transformers."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=128, image_size=32, patch_size=8,
        num_labels=10,
    )  # fmt: skip
    return Subject(ViTForImageClassification(config), (torch.randn(BATCH, 3, 32, 32),))


def clip() -> Subject:
    """CLIP: both towers and the similarities between images and texts."""
    from transformers import CLIPConfig, CLIPModel

    text = {"vocab_size": 99, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 4, "eos_token_id": 2, "max_position_embeddings": 16}  # fmt: skip
    sight = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
             "image_size": 32, "patch_size": 8}  # fmt: skip
    config = CLIPConfig(text_config=text, vision_config=sight, projection_dim=16)
    ids = tokens(9)
    ids[:, -1] = 2
    return Subject(CLIPModel(config), (), {"input_ids": ids, "pixel_values": torch.randn(BATCH, 3, 32, 32)})


def whisper() -> Subject:
    """Whisper: convolutions over a spectrogram, encoder, decoder with cross-attention."""
    from transformers import WhisperConfig, WhisperModel

    config = WhisperConfig(
        vocab_size=99, num_mel_bins=8, encoder_layers=2, encoder_attention_heads=4, decoder_layers=2,
        decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, d_model=32, max_source_positions=20,
        max_target_positions=16, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
        suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip
    keywords = {"input_features": torch.randn(BATCH, 8, 40), "decoder_input_ids": tokens(7), "use_cache": False}
    return Subject(WhisperModel(config), (), keywords)


T5_SIZES = {"vocab_size": 99, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}


def t5_encoder() -> Subject:
    """T5's encoder."""
    from transformers import T5Config, T5EncoderModel

    return Subject(T5EncoderModel(T5Config(**T5_SIZES)), (tokens(11),))


def t5() -> Subject:
    """T5's encoder and decoder."""
    from transformers import T5Config, T5Model

    config = T5Config(**T5_SIZES)
    keywords = {"input_ids": tokens(11), "decoder_input_ids": tokens(7), "use_cache": False}
    return Subject(T5Model(config), (), keywords)


class OverEmbeddings(nn.Module):
    """A language model as a function of its embedded tokens."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, embedded: torch.Tensor) -> Any:
        """(batch, length, width) to the model's output."""
        return self.model(inputs_embeds=embedded)


def bert_embedded() -> Subject:
    """BERT as a function of embeddings."""
    return Subject(OverEmbeddings(bert().model), (torch.randn(BATCH, 11, 64),))


def t5_embedded() -> Subject:
    """T5's encoder as a function of embeddings."""
    return Subject(OverEmbeddings(t5_encoder().model), (torch.randn(BATCH, 11, 32),))


def recurrent(kind: type[nn.Module], **options: Any) -> Callable[[], Subject]:
    """A two-layer recurrent network over a sequence of five."""
    return lambda: Subject(kind(6, 8, 2, **options), (torch.randn(BATCH, 5, 6),))


LANGUAGE: dict[str, Callable[[], Subject]] = {
    "transformers BERT": bert,
    "transformers BERT embedded": bert_embedded,
    "transformers GPT-2": gpt2,
    "transformers ViT": vit,
    "transformers CLIP": clip,
    "transformers Whisper": whisper,
    "transformers T5 encoder": t5_encoder,
    "transformers T5 encoder embedded": t5_embedded,
    "transformers T5": t5,
    "nn.RNN tanh": recurrent(nn.RNN, batch_first=True),
    "nn.RNN relu, bidirectional": recurrent(nn.RNN, batch_first=True, bidirectional=True, nonlinearity="relu"),
    "nn.LSTM": recurrent(nn.LSTM, batch_first=True),
    "nn.LSTM bidirectional": recurrent(nn.LSTM, batch_first=True, bidirectional=True),
    "nn.LSTM projected": recurrent(nn.LSTM, batch_first=True, proj_size=4),
    "nn.GRU": recurrent(nn.GRU, batch_first=True),
    "nn.GRU bidirectional": recurrent(nn.GRU, batch_first=True, bidirectional=True, bias=False),
    "nn.Transformer": lambda: Subject(
        nn.Transformer(16, 4, 2, 2, 32, batch_first=True), (torch.randn(BATCH, 7, 16), torch.randn(BATCH, 5, 16))
    ),
    "nn.TransformerEncoder norm first": lambda: Subject(
        nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, norm_first=True, activation="gelu"), 2),
        (torch.randn(7, BATCH, 16),),
    ),
    "nn.MultiheadAttention": lambda: Subject(
        nn.MultiheadAttention(16, 4, batch_first=True, add_bias_kv=True),
        (torch.randn(BATCH, 3, 16), torch.randn(BATCH, 5, 16), torch.randn(BATCH, 5, 16)),
    ),
}


def names() -> list[str]:
    """Every network of the run: timm's by family, then the others."""
    return [*(f"timm {family}" for family in VISION), *LANGUAGE]


def make(name: str, seed: int = 0) -> Subject:
    """Build a network by its name, in evaluation mode, with random weights and statistics.

    Parameters that start as a constant (a zero bias, a layer scale of 1e-5) get some noise, so that no branch of the
    network is silent; so do running statistics.
    """
    define_torchvision()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        subject = vision(name.removeprefix("timm ")) if name.startswith("timm ") else LANGUAGE[name]()
        with torch.no_grad():
            for parameter in subject.model.parameters():
                if parameter.is_floating_point() and bool((parameter == parameter.flatten()[:1]).all()):
                    parameter.add_(0.1 * torch.randn_like(parameter))
            for key, buffer in subject.model.named_buffers():
                if key.endswith("running_mean"):
                    buffer.add_(0.1 * torch.randn_like(buffer))
                elif key.endswith("running_var"):
                    buffer.mul_(1 + 0.2 * torch.rand_like(buffer))
    subject.model.eval()
    return subject
