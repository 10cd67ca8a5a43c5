"""Clinical scenarios: an image, a text that proposes a treatment, and which of two answers is right."""
