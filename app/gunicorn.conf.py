"""What every gunicorn of ours reads, however it is started: it looks for this file in the folder that it runs in."""

# Clients of push have nothing to say. gunicorn would take 16 MiB a message, and keep whatever it has of one that never
# ends.
websocket_max_message_size = 4096
