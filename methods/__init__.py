"""One module per method: a class, registered by its decorator."""

from bench import combine

combine("prompt", "diffmean")
