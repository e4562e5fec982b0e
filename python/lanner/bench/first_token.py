"""Programs that import an engine, open a file and print the first token of a prompt."""

from __future__ import annotations

from lanner.bench.model_results import LANNER, Contender

FIRST_TOKEN = {
    LANNER: """
import sys, lanner
with lanner.load(sys.argv[1], threads=int(sys.argv[2])) as model:
    print(next(iter(model.stream(sys.argv[3], max_tokens=1, ignore_eos=True))).token, flush=True)
""",
    Contender("llama.cpp", "its class Llama"): """
import sys
from llama_cpp import Llama
n_threads = int(sys.argv[2])
model = Llama(sys.argv[1], n_threads=n_threads, n_threads_batch=n_threads, verbose=False)
ids = model.tokenize(sys.argv[3].encode(), special=True)
print(next(iter(model.generate(ids, temp=0.0))), flush=True)
""",
    Contender("llama.cpp", "its C interface"): """
import ctypes, sys
import numpy as np, llama_cpp as c
quiet = c.llama_log_callback(lambda *_: None)
c.llama_log_set(quiet, ctypes.c_void_p(0))
c.llama_backend_init()
model = c.llama_model_load_from_file(sys.argv[1].encode(), c.llama_model_default_params())
params = c.llama_context_default_params()
params.n_ctx = params.n_batch = params.n_ubatch = 512
params.n_threads = params.n_threads_batch = int(sys.argv[2])
context = c.llama_init_from_model(model, params)
vocab = c.llama_model_get_vocab(model)
prompt = sys.argv[3].encode()
ids = (c.llama_token * 512)()
n = c.llama_tokenize(vocab, prompt, len(prompt), ids, 512, True, True)
assert c.llama_decode(context, c.llama_batch_get_one(ids, n)) == 0
logits = np.ctypeslib.as_array(c.llama_get_logits_ith(context, -1), shape=(c.llama_vocab_n_tokens(vocab),))
print(int(np.argmax(logits)), flush=True)
""",
}
"""Programs of their own: import, open, the first token of a prompt. argv: model file, threads, prompt."""
