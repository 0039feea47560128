"""One file, one class and one YAML per paper."""
