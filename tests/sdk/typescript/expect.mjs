// What a check says when it is not satisfied: a sentence, without a stack.

import { isDeepStrictEqual } from "node:util";

export class Expected extends Error {
  name = "Expected";
}

export function expect(condition, sentence) {
  if (!condition) throw new Expected(sentence);
}

/** Compares values, not texts: a server may write the keys of an object in another order. */
export function expectEqual(got, wanted, what) {
  if (!isDeepStrictEqual(got, wanted)) throw new Expected(`${what} should be ${JSON.stringify(wanted)}, not ${JSON.stringify(got)}`);
}

/** Waits for a run that must fail, and gives the texts of its errors: the SDK rejects with an array of them. */
export async function failureOf(output, what) {
  let result;
  try {
    result = await output;
  } catch (errors) {
    if (!Array.isArray(errors)) throw errors;
    return errors;
  }
  throw new Expected(`${what} should have failed, but gave ${JSON.stringify(result)}`);
}

/** The message of the exception behind the error text this SDK sends. */
export function messageIn(errorText) {
  return JSON.parse(errorText).message;
}
