// The official Node client against a served model; its address is the first argument.
import assert from "node:assert/strict";
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "none", maxRetries: 0 });
const model = "student";
const question = "What is 2+2?";
const messages = [{ role: "user", content: question }];
const settings = { model, messages, temperature: 0, max_tokens: 12 };

const whole = await client.chat.completions.create(settings);
const text = whole.choices[0].message.content;
assert.match(text, /4/);

let streamed = "";
let usage;
const options = { stream: true, stream_options: { include_usage: true } };
for await (const chunk of await client.chat.completions.create({ ...settings, ...options })) {
  streamed += chunk.choices[0]?.delta?.content ?? "";
  usage = chunk.usage ?? usage;
}
assert.equal(streamed, text);
assert.equal(usage.completion_tokens, whole.usage.completion_tokens);

const parameters = {
  type: "object",
  properties: { city: { type: "string", maxLength: 20 } },
  required: ["city"],
};
const tools = [{ type: "function", function: { name: "look_up", parameters } }];
const calling = { ...settings, max_tokens: 60, tools, tool_choice: "required" };
const [call] = (await client.chat.completions.create(calling)).choices[0].message.tool_calls;
assert.equal(call.function.name, "look_up");
assert.deepEqual(Object.keys(JSON.parse(call.function.arguments)), ["city"]);

const response = await client.responses.create({
  model, input: question, temperature: 0, max_output_tokens: 12,
});
assert.equal(response.output_text, text);

const completion = await client.completions.create({ model, prompt: "Once upon a", max_tokens: 3 });
assert.equal(completion.usage.completion_tokens, 3);

// Unless told otherwise, the client asks for base64 and decodes it.
const { data } = await client.embeddings.create({ model, input: [question, "Hi"] });
for (const { embedding } of data) {
  assert.ok(Math.abs(Math.hypot(...embedding) - 1) < 1e-3);
}

const listed = [];
for await (const card of client.models.list()) listed.push(card.id);
assert.ok(listed.includes(model));
assert.equal((await client.models.retrieve(model)).object, "model");

const wrong = client.chat.completions.create({ ...settings, temperature: 9 });
await assert.rejects(wrong, (error) => {
  return error instanceof OpenAI.BadRequestError && error.param === "temperature";
});
