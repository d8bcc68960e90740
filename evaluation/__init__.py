"""Evaluation of talking faces: picture quality, lip sync, intelligibility to lip readers."""
