"""The main job, shown with real servers and real commands."""
