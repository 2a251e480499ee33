"""The chaos proof: processes of a live local cluster are killed, stopped and robbed under load; nothing may be lost or done twice."""
