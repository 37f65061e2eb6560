"""The parts of the guidance page; `guidance_app.py` combines them."""
