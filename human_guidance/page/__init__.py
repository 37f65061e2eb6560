"""The parts of the guidance page, which `guidance_app.py` puts together."""
