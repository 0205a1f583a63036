"""The conversations that openai-harmony and the description of the format publish as examples."""

from gptoss_native.harmony import (
    BROWSER,
    CHANNELS,
    EFFORTS,
    PYTHON,
    DeveloperContent,
    Message,
    SystemContent,
    ToolDescription,
)

DATE = "2025-06-28"


def system(**options):
    return Message("system", SystemContent(**{"channels": CHANNELS} | options))


def developer(**options):
    return Message("developer", DeveloperContent(**options))


def schema(required=(), /, **properties):
    return {"type": "object", "properties": properties, "required": list(required)}


UNIT = {"type": "string", "enum": ["celsius", "fahrenheit"], "default": "celsius"}
PLACE = {"type": "string", "description": "The city and state, e.g. San Francisco, CA"}
PLACES = {
    "type": "array",
    "items": {"type": "string"},
    "description": 'List of city and state, e.g. ["San Francisco, CA", "New York, NY"]',
}
WEATHER = [
    ToolDescription("get_location", "Gets the location of the user."),
    ToolDescription(
        "get_current_weather",
        "Gets the current weather in the provided location.",
        schema(["location"], location=PLACE, format=UNIT),
    ),
    ToolDescription(
        "get_multiple_weathers",
        "Gets the current weather in the provided list of locations.",
        schema(["locations"], locations=PLACES, format=UNIT),
    ),
]
KITCHEN_SINK = ToolDescription(
    "kitchensink",
    "A function with various complex schemas.",
    {
        "description": "params object",
        "type": "object",
        "properties": {
            "string": {
                "type": "string",
                "title": "STRING",
                "description": "A string",
                "examples": ["hello", "world"],
            },
            "string_nullable": {
                "type": "string",
                "nullable": True,
                "description": "A nullable string",
                "default": "the default",
            },
            "string_enum": {"type": "string", "enum": ["a", "b", "c"]},
            "oneof_string_or_number": {
                "oneOf": [
                    {"type": "string", "default": "default_string_in_oneof"},
                    {"type": "number", "description": "numbers can happen too"},
                ],
                "description": "a oneof",
                "default": 20,
            },
        },
    },
)
# As the description of the format prints it.
PUBLISHED_FUNCTIONS = """\
<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.
Knowledge cutoff: 2024-06
Current date: 2025-06-28

Reasoning: high

# Valid channels: analysis, commentary, final. Channel must be included for every message.
Calls to these tools must go to the commentary channel: 'functions'.<|end|>\
<|start|>developer<|message|># Instructions

Use a friendly tone.

# Tools

## functions

namespace functions {

// Gets the location of the user.
type get_location = () => any;

// Gets the current weather in the provided location.
type get_current_weather = (_: {
// The city and state, e.g. San Francisco, CA
location: string,
format?: "celsius" | "fahrenheit", // default: celsius
}) => any;

// Gets the current weather in the provided list of locations.
type get_multiple_weathers = (_: {
// List of city and state, e.g. ["San Francisco, CA", "New York, NY"]
locations: string[],
format?: "celsius" | "fahrenheit", // default: celsius
}) => any;

} // namespace functions<|end|>\
<|start|>user<|message|>What is the weather like in SF?<|end|><|start|>assistant"""

TURNS = [
    Message("user", "What is 2 + 2?"),
    Message("assistant", "thinking 2+2", channel="analysis"),
    Message("assistant", "4", channel="final"),
    Message("user", "What is 3 + 5?"),
    Message("assistant", "thinking 3+5", channel="analysis"),
    Message("assistant", "8", channel="final"),
]
LOOKUP = ToolDescription(
    "lookup_weather",
    "Use this tool to lookup the weather in a given location. Call it with the parameter "
    "'location', can be any textual description of a location.",
    schema(["location"], location={"type": "string"}),
)
PUBLISHED = {
    "simple": [system(), Message("user", "What is 2 + 2?")],
    "channels": [system(channels=["analysis", "final"]), Message("user", "What is 2 + 2?")],
    "dates": [system(date="2021-01-01", knowledge_cutoff="2021-01"), Message("user", "42 * pi?")],
    "no tools": [system(date=DATE)],
    "browser": [system(date=DATE, tools=[BROWSER])],
    "browser and python": [system(date=DATE, tools=[PYTHON, BROWSER])],
    "browser and function": [system(date=DATE, tools=[BROWSER]), developer(tools=[LOOKUP])],
    "kitchen sink": [
        system(date=DATE, effort="high"),
        developer(instructions="Always respond in riddles", tools=[*WEATHER, KITCHEN_SINK]),
    ],
    "dropped reasoning": TURNS[:4],
    "analysis between finals": TURNS,
    "tool result": [Message.tool_result("browser.search", '{"result": "https://openai.com/"}')],
    "format": [
        developer(
            instructions="You are a helpful shopping assistant\n\n# Response Formats\n\n"
            '## shopping_list\n\n{"properties":{"items":{"type":"array"}}}'
        )
    ],
} | {
    f"effort {effort}, {text}": [system(effort=effort), *instructions, Message("user", "What?")]
    for effort in EFFORTS
    for text, instructions in (("plain", []), ("robot", [developer(instructions="Be a robot.")]))
}
