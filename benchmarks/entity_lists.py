"""Names in prose that need no source code to tell what they are, as a regular expression for each label."""

from __future__ import annotations

import re


def as_pattern(names: str, ending: str = "") -> str:
    """Return a regular expression of whole words for names between commas, where longer names come first."""
    ordered = sorted(names.split(","), key=lambda name: (-len(name), name))
    return rf"(?<![\w.-])(?:{'|'.join(map(re.escape, ordered))}){ending}(?![\w+-]|\.\w)"


LISTS = {
    "software library": as_pattern(
        "NumPy,Numpy,SciPy,pandas,Pandas,PyTorch,Pytorch,TensorFlow,Tensorflow,scikit-learn,Matplotlib,matplotlib,NetworkX,"
        "SymPy,JAX,Keras,PyArrow,SQLAlchemy,Pillow,OpenCV,Cython,IPython,Jupyter,Numba,Dask,Polars,Sphinx,Docutils,"
        "setuptools,Django,Flask,pytest,Transformers,Accelerate,LAPACK,BLAS,OpenBLAS,XGBoost,LightGBM,CatBoost,Optuna,"
        "safetensors,DeepSpeed,bitsandbytes,SQLite,PostgreSQL,MySQL,Tkinter,OpenSSL,NCCL,cuDNN,cuBLAS,"
        "ONNX Runtime,TensorBoard,Pygments,Graphviz,sentence-transformers,Sentence Transformers,numexpr,PyTables,"
        "fsspec,aiohttp,urllib3,psycopg2,MariaDB,Qt,GTK,wxPython,Pydantic,OpenVINO,TensorRT,FAISS,spaCy,NLTK,PySpark"
    ),
    "programming language": as_pattern(
        "Python,C++,Java,JavaScript,Fortran,FORTRAN,Rust,Perl,Ruby,MATLAB,Matlab,Julia,TypeScript,Haskell,Lisp,PHP,Scala,"
        "Kotlin,Erlang,Pascal,Mathematica,Prolog,Lua,Ada,COBOL,OCaml,SQL"
    ),
    "operating system": as_pattern(
        "Windows,Linux,macOS,MacOS,Mac OS X,OS X,Unix,UNIX,FreeBSD,OpenBSD,NetBSD,Solaris,Android,iOS,AIX,Ubuntu,"
        "Debian,Windows XP,Windows 10,Windows Vista,Windows 7",
        r"(?! (?:epoch|time|timestamps?)\b)",
    ),
    "file format": as_pattern(
        "JSON,CSV,XML,HTML,XHTML,YAML,TOML,PNG,JPEG,JPG,GIF,TIFF,PDF,SVG,Parquet,HDF5,HDF,TSV,ZIP,WAV,MP3,MP4,BMP,EPS,WebP,"
        "GraphML,NetCDF,Markdown,GGUF,ICO,Feather,JSONL,JSON Lines,AVIF,ODS,XLSX,PPM,TGA,PSD,DDS,RTF"
    ),
    "text encoding": as_pattern("UTF-8,UTF8,utf-8,UTF-16,UTF-32,ASCII,Latin-1,latin-1,latin1,ISO-8859-1,cp1252"),
    "hardware": as_pattern("CPU,GPU,TPU,NPU,XPU,HPU", "s?"),
    "language model": as_pattern(
        "BERT,RoBERTa,DistilBERT,ALBERT,ELECTRA,DeBERTa,XLNet,XLM-RoBERTa,GPT-2,GPT2,GPT-3,GPT-4,GPT-J,GPT-NeoX,T5,mT5,"
        "BART,mBART,LLaMA,Llama,Mistral,Mixtral,Qwen,Qwen2,Qwen2.5,Llama 2,Llama 3,Qwen3,Gemma,Gemma2,"
        "Gemma3,Whisper,Wav2Vec2,CLIP,ViT,BLIP-2,LLaVA,"
        "BLOOM,OPT,Longformer,BigBird,CamemBERT,ModernBERT,MPNet,MiniLM,ResNet,Swin,DETR,SegFormer,SAM,HuBERT,Falcon,"
        "DeepSeek-V3,Phi-3,Mamba,Pegasus,Reformer,Funnel,LayoutLM,LayoutLMv2,LayoutLMv3,DINOv2"
    ),
}
