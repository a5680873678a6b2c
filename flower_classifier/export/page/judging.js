// What the network's outputs are worth: probabilities, and whether the picture is of one of the classes at all.
// The same rules as in predicting/base_predictor.py and judging/conformal.py.

export function probabilities(logits, temperature) {
  const scaled = Array.from(logits, (logit) => logit / temperature);
  const highest = scaled.reduce((one, other) => Math.max(one, other));
  const powers = scaled.map((value) => Math.exp(value - highest));
  const sum = powers.reduce((one, other) => one + other);
  return powers.map((power) => power / sum);
}

// The indices of the likeliest classes, likeliest first.
export function likeliest(shares, number) {
  const order = Array.from(shares.keys()).sort((a, b) => shares[b] - shares[a] || a - b);
  return order.slice(0, number);
}

// Returns what takes a picture's two scores to the share of pictures of the classes that look at least as strange.
// `doubtWeight` is that of the doubt's rank beside the distance's; null where checkpoints of before multiply the two.
export function strangerTest(scores, doubtWeight) {
  const strangeness = (byDoubt, byDistance) =>
    doubtWeight === null ? 1 / (byDoubt * byDistance) : doubtWeight / byDoubt + 1 / byDistance;
  const ranks = [0, 1].map((kind) => {
    const sorted = Float64Array.from(scores, (pair) => pair[kind]).sort();
    return scores.map((pair) => scores.length - firstNotBelow(sorted, pair[kind]));
  });
  return (doubt, distance) => {
    let [asDoubtful, asFar] = [1, 1];
    for (const [one, other] of scores) {
      if (one >= doubt) asDoubtful++;
      if (other >= distance) asFar++;
    }
    let asStrange = 1;
    const strange = strangeness(asDoubtful, asFar);
    scores.forEach(([one, other], index) => {
      const [byDoubt, byDistance] = [ranks[0][index] + (doubt >= one), ranks[1][index] + (distance >= other)];
      if (strangeness(byDoubt, byDistance) >= strange) asStrange++;
    });
    return asStrange / (1 + scores.length);
  };
}

function firstNotBelow(sorted, value) {
  let [low, high] = [0, sorted.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sorted[middle] < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

// Returns what takes logits and a distance to an answer: the likeliest classes, and whether the picture is known.
export function judgeFor(spec) {
  const names = spec.classes.map((name) => (Object.hasOwn(spec.category_names, name) ? spec.category_names[name] : name));
  const scores = spec.stranger_scores;
  const pValue = scores && strangerTest(scores, spec.stranger_measure.doubt_weight);
  const rate = spec.stranger_rate / 100;
  const canTell = Boolean(scores) && rate * (1 + scores.length) >= 1; // else there are too few photos to promise it
  return (logits, distance, number) => {
    const shares = probabilities(logits, spec.temperature);
    const top = likeliest(shares, number);
    const pKnown = pValue ? pValue(-shares[top[0]], distance) : null;
    const predictions = top.map((index) => ({ class: spec.classes[index], name: names[index], probability: shares[index] }));
    return { predictions, p_known: pKnown, known: canTell ? pKnown > rate : null };
  };
}
