// Runs an AOTInductor package on one slice, without Python.
//
//     run_package MODEL.pt2 LOW.f32 ENHANCED.f32 BATCH SIZE
//
// LOW.f32 holds BATCH * SIZE * SIZE float32 numbers in network range, (HU + 1024) / 2924 clipped to
// [0, 1], row by row; ENHANCED.f32 gets as many. The package runs on the device that it was built
// for. Exit status: 0 done, 1 failed, 2 wrong usage.

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <cstdlib>
#include <fstream>
#include <iostream>
#include <stdexcept>
#include <string>

namespace {

at::Tensor read(const std::string& path, int64_t batch, int64_t size) {
  auto slices = at::empty({batch, 1, size, size}, at::kFloat);
  const auto bytes = static_cast<std::streamsize>(slices.nbytes());
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file || file.tellg() != bytes) {
    throw std::runtime_error(path + " does not hold " + std::to_string(bytes) + " bytes");
  }
  file.seekg(0);
  file.read(static_cast<char*>(slices.data_ptr()), bytes);
  return slices;
}

void write(const std::string& path, const at::Tensor& slices) {
  std::ofstream file(path, std::ios::binary);
  file.write(static_cast<const char*>(slices.data_ptr()), static_cast<std::streamsize>(slices.nbytes()));
  if (!file) {
    throw std::runtime_error(path + " cannot be written");
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 6) {
    std::cerr << "usage: run_package MODEL.pt2 LOW.f32 ENHANCED.f32 BATCH SIZE\n";
    return 2;
  }
  try {
    c10::InferenceMode no_gradients;
    torch::inductor::AOTIModelPackageLoader package(argv[1]);
    const bool gpu = package.get_metadata()["AOTI_DEVICE_KEY"] == "cuda";
    auto low = read(argv[2], std::atoll(argv[4]), std::atoll(argv[5]));
    auto enhanced = package.run({gpu ? low.to(at::kCUDA) : low}).at(0);
    write(argv[3], enhanced.to(at::kCPU, at::kFloat).contiguous());
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
  return 0;
}
