"""Code that came as text, executed in processes of its own, within limits; bombs among it come to nothing.

python examples/executed_code.py
"""

from __future__ import annotations

from rmbus import Data, Pipeline
from rmbus.nodes import CodeExecutor

CODES = {
    "primes": """
def is_prime(n):
    return n > 1 and all(n % d for d in range(2, int(math.sqrt(n)) + 1))

print("below", input_data)
result = [n for n in range(input_data) if is_prime(n)]
""",
    "mistake": "result = 1 / 0",
    "endless loop": "while True: pass",
    "10 GB": "result = len(bytearray(10 << 30))",
    "forbidden import": "import os",
    "past the guard": """
os = getattr(getattr(print, "__se" + "lf__"), "__imp" + "ort__")("os")
while True:
    os.fork()
""",
    "and on": "result = 'as ever'",
}


def main() -> None:
    requests = [{"code": code, "input": 30} for code in CODES.values()]
    answers = Pipeline([CodeExecutor(time_s=1.0)]).process(requests)
    for name, frame in zip(CODES, answers, strict=True):
        assert isinstance(frame, Data)
        answer = frame.value
        print(f"{name:>16}: {answer.get('result', answer.get('error'))}")


if __name__ == "__main__":
    main()
