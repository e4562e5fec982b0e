// Runs recorded cases on the kernels that LANNER_ISA names, without Python: runner CASES RESULTS.
// tests/emulation/test_neon.py writes the cases and judges the results.
//
// Both files are sequences of records: int64 number of fields, then for each int64 length of its name, the
// name, int64 number of bytes, the bytes. A number is a field of one int64 or float64. The first record of
// the results holds the name of the set; the others answer the cases in their order.
#include <cstdio>
#include <cstring>
#include <fstream>
#include <map>
#include <numeric>
#include <sstream>
#include <string>
#include <vector>

#include "core/check.h"
#include "core/memory.h"
#include "cpu/backend.h"
#include "ops/packed.h"
#include "ops/table.h"

namespace lanner {
namespace {

class Fields {
 public:
  bool read(std::istream& file) {
    int64_t n = 0;
    if (!file.read(reinterpret_cast<char*>(&n), sizeof n)) return false;
    for (; n > 0; --n) {
      const std::vector<std::byte> name = read_bytes(file);
      all_[std::string(reinterpret_cast<const char*>(name.data()), name.size())] = read_bytes(file);
    }
    return true;
  }
  void write(std::ostream& file) const {
    write_number(file, static_cast<int64_t>(all_.size()));
    for (const auto& [name, bytes] : all_) {
      write_bytes(file, name.data(), name.size());
      write_bytes(file, bytes.data(), bytes.size());
    }
  }

  bool has(const std::string& name) const { return all_.count(name) > 0; }
  // Kernels take inputs that they do not write through pointers to what is not const.
  template <class T>
  T* at(const std::string& name) {
    check(has(name), "runner: a case has no field ", name);
    return reinterpret_cast<T*>(all_[name].data());
  }
  template <class T>
  T* at_or_null(const std::string& name) {
    return has(name) ? at<T>(name) : nullptr;
  }
  int64_t integer(const std::string& name) { return *at<int64_t>(name); }
  int int32(const std::string& name) { return static_cast<int>(integer(name)); }
  float number(const std::string& name) { return static_cast<float>(*at<double>(name)); }
  std::string text(const std::string& name) { return {at<char>(name), all_[name].size()}; }
  // Memory that an operation must write whole.
  template <class T>
  T* make(const std::string& name, int64_t n) {
    all_[name].assign(sizeof(T) * static_cast<size_t>(n), std::byte{0xa5});
    return at<T>(name);
  }

 private:
  static std::vector<std::byte> read_bytes(std::istream& file) {
    int64_t n = 0;
    file.read(reinterpret_cast<char*>(&n), sizeof n);
    std::vector<std::byte> bytes(static_cast<size_t>(n));
    file.read(reinterpret_cast<char*>(bytes.data()), n);
    check(bool(file), "runner: the file of cases ends early");
    return bytes;
  }
  static void write_number(std::ostream& file, int64_t n) {
    file.write(reinterpret_cast<const char*>(&n), sizeof n);
  }
  static void write_bytes(std::ostream& file, const void* p, size_t n) {
    write_number(file, static_cast<int64_t>(n));
    file.write(static_cast<const char*>(p), static_cast<std::streamsize>(n));
  }

  std::map<std::string, std::vector<std::byte>> all_;
};

const CpuTable& kernels() { return cpu_table(); }

Worker& worker() {
  static Memory scratch(kScratchBytes);
  static Worker worker{0, {false, false}, scratch.data()};
  return worker;
}

template <class Args>
void run(Kernel kernel, const Args& a, const Step& step) {
  check(a);
  kernel(&a, step, worker(), 0, units(a, step));
}

template <class T>
Rows<T> rows(T* base, int64_t cols, RowKind kind = RowKind::kTokens) {
  return {reinterpret_cast<std::byte*>(base), static_cast<int32_t>(cols), kind, 0, 0};
}

const FormatInfo& format_named(const std::string& name) {
  for (const FormatInfo& f : kFormats)
    if (name == f.name) return f;
  throw std::invalid_argument("runner: no format " + name);
}

// --- weights -------------------------------------------------------------------------------------------
// formats: names, one per segment; n_rows: int64 of each; data: their rows, one after the other.
PackedWeight pack(Fields& in) {
  std::vector<PackSource> sources;
  const int32_t k = in.int32("k");
  const std::byte* data = in.at<std::byte>("data");
  const int64_t* n_rows = in.at<int64_t>("n_rows");
  std::istringstream names(in.text("formats"));
  for (std::string name; names >> name; ++n_rows) {
    const Format format = format_named(name).format;
    sources.push_back({format, data, static_cast<int32_t>(*n_rows), k, 0});
    data += row_bytes(format, static_cast<size_t>(k)) * static_cast<size_t>(*n_rows);
  }
  PackedWeight w = lay_out(sources);
  for (size_t i = 0; i < sources.size(); ++i)
    check(kernels().pack(sources[i], w.segments[i], 0, w.segments[i].n_panels),
          "runner: a weight is not finite");
  return w;
}

void pack_and_multiply(Fields& in, Fields& out) {
  const PackedWeight w = pack(in);
  const int64_t n_tokens = in.integer("n_tokens");
  std::memcpy(out.make<std::byte>("packed", static_cast<int64_t>(w.n_bytes)), w.segments[0].data, w.n_bytes);
  float* unpacked = out.make<float>("unpacked", int64_t{w.n} * w.k);
  for (int r = 0; r < w.n; ++r) kernels().unpack_row(w, r, unpacked + int64_t{r} * w.k);

  Step step;
  step.n_tokens = static_cast<int32_t>(n_tokens);
  LinearInput x{rows(in.at<float>("x"), w.k), {}, {}};
  if (w.k % kBlock == 0) {
    x.int8 = rows(out.make<uint8_t>("int8", n_tokens * int8_row_bytes(w.k)), int8_row_bytes(w.k));
    x.int16 = rows(out.make<uint8_t>("int16", n_tokens * int16_row_bytes(w.k)), int16_row_bytes(w.k));
    run(kernels().quantize_rows, QuantizeRowsArgs{x.x, x.int8, x.int16}, step);
  }
  const Rows<float> y = rows(out.make<float>("linear", n_tokens * w.n), w.n);
  run(kernels().linear, LinearArgs{&w, x, y, false, kPanelRows}, step);
  if (!in.has("gate_up")) return;
  const Rows<float> gated = rows(out.make<float>("gate_up", n_tokens * w.n / 2), w.n / 2);
  run(kernels().gate_up, GateUpArgs{&w, x, gated, kPanelRows}, step);
}

void quantize(Fields& in, Fields& out) {
  const FormatInfo& f = format_named(in.text("format"));
  const int64_t n = in.integer("n");
  if (in.has("data"))
    kernels().dequantize(f.format, in.at<std::byte>("data"), n, out.make<float>("values", n));
  if (!in.has("x")) return;
  auto* to = out.make<std::byte>("blocks", n / f.block * f.bytes);
  *out.make<int64_t>("finite", 1) = kernels().quantize(f.format, in.at<float>("x"), n, to);
}

// --- rows ----------------------------------------------------------------------------------------------
void softmax(Fields& in, Fields& out) {
  const int64_t n_rows = in.integer("n_rows"), n = in.integer("n");
  const int64_t n_chunks = (n + kSoftmaxChunk - 1) / kSoftmaxChunk;
  std::vector<ChunkSum> sums(static_cast<size_t>(n_chunks));
  float* log_sums = out.make<float>("logsumexp", n_rows);
  for (const char* name :
       {"softmax", "softmax_twice", "log_softmax"}) {  // with and without kept exponentials
    float* to = out.make<float>(name, n_rows * n);
    for (int64_t r = 0; r < n_rows; ++r, to += n) {
      const bool keep = std::string(name) == "softmax", logarithm = std::string(name) == "log_softmax";
      const SoftmaxRow row{
          in.at<float>("x") + r * n, keep ? to : nullptr, to, sums.data(), n, logarithm, false};
      kernels().rows.sum_chunks(row, 0, n_chunks);
      if (logarithm) log_sums[r] = kernels().rows.log_sum(row);
      kernels().rows.write_chunks(row, kernels().rows.merge_chunks(row), 0, n_chunks);
    }
  }
}

void norms(Fields& in, Fields& out) {
  const int64_t n_rows = in.integer("n_rows"), n = in.integer("n");
  NormRows a{
      in.at<float>("x"), in.at_or_null<float>("weight"), nullptr, out.make<float>("rms_norm", n_rows * n), n,
      in.number("eps")};
  kernels().rows.rms_norm_rows(a, 0, n_rows);
  a.bias = in.at_or_null<float>("bias");
  a.out = out.make<float>("layer_norm", n_rows * n);
  kernels().rows.layer_norm_rows(a, 0, n_rows);
}

void rope(Fields& in, Fields& out) {
  const int64_t n_rows = in.integer("n_rows"), n = in.integer("n"), half = in.integer("half");
  std::vector<int32_t> positions(in.at<int32_t>("positions"), in.at<int32_t>("positions") + n_rows);
  Step step;
  step.n_tokens = static_cast<int32_t>(n_rows), step.positions = positions.data();
  float* table = out.make<float>("table", n_rows * 2 * half);
  run(kernels().rope_table, RopeTableArgs{{in.at<double>("inv_freq"), half}, rows(table, 2 * half)}, step);
  std::vector<int64_t> angles(static_cast<size_t>(n_rows));
  std::iota(angles.begin(), angles.end(), 0);
  for (const bool interleaved : {false, true}) {
    float* to = out.make<float>(interleaved ? "interleaved" : "half", n_rows * n);
    kernels().rows.rope_rows({in.at<float>("x"), table, angles.data(), to, n, 2 * half, interleaved}, 0,
                             n_rows);
  }
}

void activate(Fields& in, Fields& out) {
  const int64_t n = in.integer("n");
  constexpr std::pair<const char*, Activation> kNames[] = {
      {"silu", Activation::kSilu}, {"gelu", Activation::kGelu}, {"gelu_tanh", Activation::kGeluTanh}};
  for (const auto& [name, f] : kNames) {
    kernels().rows.activate(f, in.at<float>("x"), nullptr, out.make<float>(name, n), n);
    float* gated = out.make<float>(std::string(name) + "_gated", n);
    kernels().rows.activate(f, in.at<float>("x"), in.at<float>("up"), gated, n);
  }
}

void top_k(Fields& in, Fields& out) {
  const int64_t n = in.integer("n"), k = in.integer("k");
  std::vector<uint64_t> keys(static_cast<size_t>(top_k_room(n, k)));
  kernels().rows.top_k(in.at<float>("x"), n, k, keys.data(), out.make<float>("values", k),
                       out.make<int64_t>("ids", k));
}

void sample(Fields& in, Fields& out) {
  Step step;
  step.n_outputs = in.int32("n_rows"), step.sampling = in.at<float>("sampling");
  const Rows<float> logits = rows(in.at<float>("x"), in.integer("n"), RowKind::kOutputs);
  int32_t* ids = out.make<int32_t>("ids", step.n_outputs);
  run(kernels().sample, SampleArgs{logits, rows(ids, 1, RowKind::kOutputs)}, step);
}

// --- attention -----------------------------------------------------------------------------------------
ArrayView whole(std::byte* data, int64_t heads, int64_t length, int64_t dim, int64_t item) {
  return {data, heads * length * dim * item, length * dim * item, dim * item, item};
}

void sdpa(Fields& in, Fields& out) {
  SdpaArgs a;
  a.format = format_named(in.text("format")).format;
  a.batch = in.integer("batch"), a.heads = in.integer("heads"), a.kv_heads = in.integer("kv_heads");
  a.q_len = in.integer("q_len"), a.kv_len = in.integer("kv_len");
  a.head_dim = in.integer("head_dim"), a.value_dim = in.integer("value_dim");
  a.scale = in.number("scale"), a.softcap = in.number("softcap");
  a.window = in.integer("window"), a.causal = in.integer("causal") != 0;
  const int64_t item = info(a.format).bytes, n_rows = a.batch * a.heads * a.q_len;
  a.q = whole(in.at<std::byte>("q"), a.heads, a.q_len, a.head_dim, item);
  a.k = whole(in.at<std::byte>("k"), a.kv_heads, a.kv_len, a.head_dim, item);
  a.v = whole(in.at<std::byte>("v"), a.kv_heads, a.kv_len, a.value_dim, item);
  if (in.has("mask")) {
    a.mask_kind = static_cast<MaskKind>(in.integer("mask_kind"));
    a.mask = whole(in.at<std::byte>("mask"), a.heads, a.q_len, a.kv_len,
                   a.mask_kind == MaskKind::kAdditive ? 4 : 1);
  }
  check(a);
  auto output = [&](const char* name) {
    a.out =
        whole(out.make<std::byte>(name, n_rows * a.value_dim * item), a.heads, a.q_len, a.value_dim, item);
  };
  output("chunked");
  std::vector<float> partials(partial_floats(a) * static_cast<size_t>(a.n_chunks()));
  for (int64_t u = 0; u < a.n_units(); ++u) {
    for (int64_t c = 0; c < a.n_chunks(); ++c)
      kernels().sdpa.chunk(a, u, c, partials.data() + partial_floats(a) * static_cast<size_t>(c),
                           worker().scratch);
    kernels().sdpa.merge(a, u, partials.data(), worker().scratch);
  }
  output("out");
  a.weights = out.make<float>("weights", n_rows * a.kv_len);
  for (int64_t u = 0; u < a.n_units(); ++u) kernels().sdpa.whole(a, u, worker().scratch);
}

// One sequence of n_tokens in a cache, of which the last n_new ask.
void attention(Fields& in, Fields& out) {
  const int32_t n_heads = in.int32("n_heads"), n_kv_heads = in.int32("n_kv_heads"),
                dim = in.int32("head_dim");
  const int32_t n = in.int32("n_tokens"), n_new = in.int32("n_new"), width = (n_heads + 2 * n_kv_heads) * dim;
  const int32_t n_pages = (n + kPagePositions - 1) / kPagePositions;
  KvCache cache(kv_type_named(in.text("kv_format")), 1, n_pages, n_kv_heads, dim);
  std::vector<int32_t> positions(static_cast<size_t>(n)), seqs(positions.size(), 0);
  std::iota(positions.begin(), positions.end(), 0);
  auto step = [&](int32_t first) {
    static int32_t starts[2];
    starts[1] = n - first;
    Step s;
    s.n_tokens = n - first, s.n_seqs = 1, s.max_pages = n_pages;
    s.positions = positions.data() + first, s.token_seqs = seqs.data(), s.seq_starts = starts;
    s.kv_lens = &n, s.block_tables = in.at<int32_t>("pages");
    return s;
  };
  float* qkv = in.at<float>("qkv");
  run(kernels().rope_append,
      RopeAppendArgs{rows(qkv, width), rows(in.at<float>("table"), dim), &cache, 0, n_heads}, step(0));
  AttentionPlan plan;
  const int64_t first = n - n_new;
  AttentionArgs a{rows(qkv + first * width, width),
                  rows(out.make<float>("out", int64_t{n_new} * n_heads * dim), n_heads * dim),
                  &cache,
                  0,
                  n_heads,
                  in.number("scale")};
  a.window = in.int32("window"), a.softcap = in.number("softcap"), a.causal = in.integer("causal") != 0;
  if (in.has("bias")) a.bias = {in.at<float>("bias"), in.integer("bias_size")};
  a.plan = &plan;
  prepare(plan, a, step(n - n_new));
  run(kernels().attention, a, step(n - n_new));
}

using Operation = void (*)(Fields& in, Fields& out);
const std::map<std::string, Operation> kOperations = {{"matmul", pack_and_multiply},
                                                      {"quantize", quantize},
                                                      {"softmax", softmax},
                                                      {"norms", norms},
                                                      {"rope", rope},
                                                      {"activate", activate},
                                                      {"top_k", top_k},
                                                      {"sample", sample},
                                                      {"sdpa", sdpa},
                                                      {"attention", attention}};

void run_file(const char* from, const char* to) {
  std::ifstream cases(from, std::ios::binary);
  std::ofstream results(to, std::ios::binary);
  check(cases.good() && results.good(), "runner: cannot open ", from, " or ", to);
  Fields about;
  const std::string name = kernels().name;
  std::memcpy(about.make<char>("isa", static_cast<int64_t>(name.size())), name.data(), name.size());
  about.write(results);
  for (Fields in; in.read(cases); in = {}) {
    Fields out;
    kOperations.at(in.text("op"))(in, out);
    out.write(results);
  }
}

}  // namespace
}  // namespace lanner

int main(int argc, char** argv) {
  try {
    lanner::check(argc == 3, "usage: runner CASES RESULTS");
    lanner::run_file(argv[1], argv[2]);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
