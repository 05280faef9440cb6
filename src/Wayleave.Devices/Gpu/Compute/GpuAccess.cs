namespace Wayleave.Devices.Gpu.Compute;

/// <summary>What commands may do with memory (<c>AMDGPU_VM_PAGE_READABLE</c>, <c>_WRITEABLE</c>).</summary>
[Flags]
public enum GpuAccess
{
    None = 0,
    Read = 1,
    Write = 2,
    ReadWrite = Read | Write,
}
