// What a check says when it is not satisfied: a sentence, without a stack.

export class Expected extends Error {
  name = "Expected";
}

export function expect(condition, sentence) {
  if (!condition) throw new Expected(sentence);
}

export function expectEqual(got, wanted, what) {
  const [a, b] = [got, wanted].map((value) => JSON.stringify(value));
  if (a !== b) throw new Expected(`${what} should be ${b}, not ${a}`);
}
