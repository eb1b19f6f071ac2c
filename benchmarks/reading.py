"""x"""
from benchmarks.noop import NOOP
from dataclasses import replace
READING = replace(NOOP, name="reading")
