"""From a trained network to an engine that may ship, or the reason why not."""
