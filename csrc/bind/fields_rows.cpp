// Arguments of the operations on rows and columns of values, and of experts.
#include <iterator>

#include "bind/fields.h"

namespace lanner {

Activation Fields::activation(const char* name, const char* otherwise) {
  const auto given = otherwise ? number<std::string>(name, otherwise) : number<std::string>(name);
  std::string names;
  for (size_t i = 0; i < std::size(kActivationNames); ++i) {
    if (given == kActivationNames[i]) return static_cast<Activation>(i);
    names += (i ? ", " : "") + std::string(kActivationNames[i]);
  }
  throw std::invalid_argument(cat(op_, ": ", name, " is '", given, "', wanted one of ", names));
}

void fill(Fields& f, ActivateArgs& a) {
  a = {f.activation("function"), f.written<float>("x"), f.number<int32_t>("unit_cols", kPanelRows)};
}
void fill(Fields& f, SoftcapArgs& a) {
  a = {f.written<float>("x"), f.number<float>("cap"), f.number<int32_t>("unit_cols", kPanelRows)};
}
void fill(Fields& f, LayerNormArgs& a) {
  a = {f.rows<float>("x"), f.vector<float>("weight"), f.optional_vector<float>("bias"),
       f.written<float>("out"), f.number<float>("eps")};
}
void fill(Fields& f, AddArgs& a) {
  a = {f.rows<float>("x"), f.rows<float>("y"), f.written<float>("out"), f.number<float>("factor", 1.0f)};
}
void fill(Fields& f, ScaleArgs& a) {
  a = {f.rows<float>("x"), f.written<float>("out"), f.number<float>("factor")};
}
void fill(Fields& f, AddPositionsArgs& a) {
  a = {f.rows<float>("x"), f.matrix<float>("table"), f.number<int32_t>("offset", 0), f.written<float>("out")};
}
void fill(Fields& f, AddGatedArgs& a) {
  a = {f.rows<float>("x"), f.rows<float>("y"), f.rows<float>("gate"), f.written<float>("out")};
}
void fill(Fields& f, RouteArgs& a) {
  a = {f.rows<float>("x"), f.written<int32_t>("ids"), f.written<float>("weights"),
       f.number<bool>("normalise")};
}
void fill(Fields& f, ExpertsGateUpArgs& a) {
  a = {f.weight("weight"),
       f.linear_input(),
       f.rows<int32_t>("ids"),
       f.written<float>("out"),
       f.number<int32_t>("n_experts"),
       f.number<int32_t>("unit_rows", kPanelRows),
       f.activation("function", "silu")};
}
void fill(Fields& f, ExpertsDownArgs& a) {
  a = {f.weight("weight"),
       f.linear_input(),
       f.rows<int32_t>("ids"),
       f.rows<float>("weights"),
       f.written<float>("out"),
       f.number<bool>("add", false),
       f.number<int32_t>("n_experts"),
       f.number<int32_t>("unit_rows", kPanelRows)};
}

}  // namespace lanner
