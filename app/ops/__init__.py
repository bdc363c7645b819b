"""What administrators and operators see: commands, doctor, health, logs, metrics, traces, sweep."""
