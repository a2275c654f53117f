"""A run as a folder of plain files: reader, writer, events, result, routing and predictions."""
