"""x"""
from dataclasses import replace

from benchmarks.noop import NOOP

READING = replace(NOOP, name="reading")
