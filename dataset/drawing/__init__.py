"""How a scene is drawn. In order, each file importing only from earlier ones: colours, shapes, things, poses, people,
kinds, backgrounds, annotating, composing, painting, captions. The rest of the project uses `dataset.scenes`.
"""
