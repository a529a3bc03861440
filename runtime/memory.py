"""Which errors say that there is too little memory."""

from __future__ import annotations

# Words of torch, CUDA and its libraries, MPS, OpenCV and onnxruntime, whose errors have no class of their own for it.
WORDS = (
    *("DefaultCPUAllocator", "out of memory", "STATUS_ALLOC_FAILED"),
    *("Insufficient memory", "Failed to allocate memory", "bad_alloc"),
)


def lacks_memory(error: BaseException) -> bool:
    """Whether an error says that there is too little memory; torch, whose class of a GPU is known by its name, need not
    be there."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return any(words in str(error) for words in WORDS)
