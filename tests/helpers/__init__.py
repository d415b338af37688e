"""What tests share that is no test: exact data, ports of published networks, scripts for processes."""

import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[2]
