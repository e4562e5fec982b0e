"""Generates text with a model in an environment that holds lanner alone, and says what came of it.

python run_generate.py MODEL.gguf PROMPT N_TOKENS [LOGITS.npy] prints JSON: the instruction set, the folder of
the package, the ids of the prompt, the greedy tokens, their text, and the compilers that PATH leads to. The
logits of prompt and tokens go to LOGITS.npy.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import lanner

COMPILERS = ("cc", "c++", "gcc", "g++", "clang", "clang++", "nvcc", "as", "ld", "cmake", "ninja", "make")

model_path, prompt, n_tokens, *logits_path = sys.argv[1:]
with lanner.load(model_path, context=64, threads=2, kv_dtype="f32") as model:
    ids = model.tokenizer.encode(prompt)
    result = model.generate(prompt, max_tokens=int(n_tokens), ignore_eos=True)
    for path in logits_path:
        import numpy as np

        np.save(path, model.logits(ids + result.tokens))
print(
    json.dumps(
        {
            "isa": lanner.isa(),
            "package": str(Path(lanner.__file__).parent),
            "compilers": [name for name in COMPILERS if shutil.which(name)],
            "prompt_ids": ids,
            "tokens": result.tokens,
            "text": result.text,
            "decoded": model.tokenizer.decode(result.tokens),
        }
    )
)
