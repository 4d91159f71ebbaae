"""What is deployed: a manifest and three ONNX graphs, checked before they run, and the session that runs them."""

from diwa_runtime.bundle.bundle import MANIFEST, Bundle, observation_type, write_bundle

__all__ = ["MANIFEST", "Bundle", "observation_type", "write_bundle"]
