// Fields that this version does not know, as lines.

/** A field by its path, and its value as text. */
export interface Field {
  name: string;
  value: string;
}

/** Lines that are shown at most. */
const LIMIT = 200;

/** Every field of an object in which something is, by its path; `known` are left out. */
export function fieldsOf(value: unknown, known: readonly string[] = []): Field[] {
  const fields: Field[] = [];
  const walk = (one: unknown, name: string) => {
    if (fields.length > LIMIT || one === undefined) return;
    if (Array.isArray(one) && one.every(item => typeof item !== 'object')) {
      if (one.length > 0) fields.push({ name, value: one.join(', ') });
    } else if (typeof one === 'object' && one !== null) {
      for (const [key, child] of Object.entries(one)) {
        if (name === '' && known.includes(key)) continue;
        walk(child, Array.isArray(one) ? `${name}[${key}]` : name ? `${name}.${key}` : key);
      }
    } else {
      fields.push({ name, value: String(one) });
    }
  };
  walk(value, '');
  if (fields.length > LIMIT) {
    return [...fields.slice(0, LIMIT), { name: '…', value: `only ${LIMIT} fields are shown` }];
  }
  return fields;
}
