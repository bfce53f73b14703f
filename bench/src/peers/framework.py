"""The handler for functions-framework."""

import functions_framework


@functions_framework.http
def handler(request):
    request.get_json()
    return {"ok": True}
