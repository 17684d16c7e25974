// Vercel's AI SDK against a served model; its address is the first argument.
import assert from "node:assert/strict";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, Output, streamText, tool } from "ai";
import { z } from "zod";

const provider = createOpenAICompatible({
  name: "potstill", baseURL: process.argv[2], apiKey: "none",
  supportsStructuredOutputs: true, includeUsage: true,
});
const settings = { model: provider("student"), temperature: 0, maxOutputTokens: 60, maxRetries: 0 };
const prompt = "What is 2+2?";
const city = z.object({ city: z.string().max(20) });

const whole = await generateText({ ...settings, prompt });
assert.match(whole.text, /4/);

const stream = streamText({ ...settings, prompt });
let streamed = "";
for await (const part of stream.textStream) streamed += part;
assert.equal(streamed, whole.text);
assert.equal((await stream.usage).outputTokens, whole.usage.outputTokens);

const place = "In which city is the Louvre?";
const bound = await generateText({ ...settings, prompt: place, output: Output.object({ schema: city }) });
assert.equal(typeof bound.output.city, "string");

const tools = { look_up: tool({ description: "Looks a city up.", inputSchema: city }) };
for (const call of [generateText, streamText]) {
  const answer = await call({ ...settings, prompt: place, tools, toolChoice: "required" });
  const [made] = await answer.toolCalls;
  assert.equal(made.toolName, "look_up");
  assert.equal(typeof made.input.city, "string");
}
