"""The miniature world: images and captions rendered on the spot; everything runs without a download."""

from promptvision.data.world.tasks import TASKS, Task, read_task

__all__ = ["TASKS", "Task", "read_task"]
