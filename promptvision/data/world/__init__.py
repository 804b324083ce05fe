"""The miniature world: images and captions that are rendered when needed, so that nothing is downloaded."""

from promptvision.data.world.tasks import TASKS, Task, read_task

__all__ = ["TASKS", "Task", "read_task"]
