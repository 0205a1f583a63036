// A tool that the page runs itself: numbers, + - * / and brackets, read without eval.

export const CALCULATOR = {
  name: "calculator",
  description: "Evaluate an arithmetic expression.",
  parameters: {
    type: "object",
    properties: {
      expression: { type: "string", description: "The expression to evaluate." },
    },
    required: ["expression"],
    additionalProperties: false,
  },
};

export function calculator(given) {
  try {
    const value = evaluate(String(JSON.parse(given).expression));
    return `{"result": ${Number.isFinite(value) ? value : null}}`; // spaced as models see it most
  } catch (error) {
    return JSON.stringify({ error: error.message });
  }
}

function evaluate(text) {
  const tokens = text.match(/\d+(\.\d+)?|\S/g) ?? [];
  let at = 0;
  const operators = [
    { "+": (a, b) => a + b, "-": (a, b) => a - b },
    { "*": (a, b) => a * b, "/": (a, b) => a / b },
  ];
  const level = (depth) => {
    if (depth === operators.length) return factor();
    let value = level(depth + 1);
    while (Object.hasOwn(operators[depth], tokens[at] ?? "")) {
      const apply = operators[depth][tokens[at++]];
      value = apply(value, level(depth + 1));
    }
    return value;
  };
  const factor = () => {
    const token = tokens[at++];
    if (token === "-") return -factor();
    if (token === "(") {
      const value = level(0);
      if (tokens[at++] !== ")") throw new Error("a bracket is not closed");
      return value;
    }
    if (token === undefined || !/^\d/.test(token)) {
      throw new Error(`${token ?? "the end"} comes where a number was wanted`);
    }
    return Number(token);
  };
  const value = level(0);
  if (at < tokens.length) throw new Error(`${tokens[at]} comes after the expression's end`);
  return value;
}
