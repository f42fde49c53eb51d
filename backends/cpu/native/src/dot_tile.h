// The table of integer tiles of one instruction set, from a function template over the number of rows. Include it
// in one file per instruction set only, inside an unnamed namespace: nothing of it may be shared between them.
template <int... R>
constexpr Dot make_dot(int rows, bool bytes, std::integer_sequence<int, R...>, bool finishes = false) {
  return {rows, finishes, bytes, {nullptr, &tile<R + 1>...}};
}
