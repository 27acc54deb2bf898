"""Models, one file each, in ordinary single-process code.

They may import layers and everything below; generation/ and huggingface/ are built on them. Read
gpt.py first, then language_model.py for what all models share, and llama.py, bert.py and t5.py.
"""

from ringlet.nn.models.bert import *
from ringlet.nn.models.generation.beams import *
from ringlet.nn.models.generation.sampling import *
from ringlet.nn.models.gpt import *
from ringlet.nn.models.huggingface.auto import *
from ringlet.nn.models.huggingface.folder import *
from ringlet.nn.models.language_model import *
from ringlet.nn.models.llama import *
from ringlet.nn.models.t5 import *
