using Wayleave.Core.Buffers;
using Wayleave.Devices.Gpu;
using Wayleave.Linux.Sharing;

namespace Wayleave.Host.Broker;

/// <summary>
/// Device memory that programs share. It is alive while a program has a number for it or a copy of a descriptor is
/// left anywhere; the last one frees it, once. Changed under the host lock.
/// </summary>
internal sealed class BrokerBuffer(
    GpuHandle gpu, GpuBuffer memory, SharedPages? pages, BrokerProgram owner, bool isWithdrawable)
{
    public GpuHandle Gpu { get; } = gpu;

    public GpuBuffer Memory { get; } = memory;

    public SharedBuffer Shared => Memory.Shared;

    /// <summary>What programs map; null for storage that can be taken back.</summary>
    public SharedPages? Pages { get; } = pages;

    /// <summary>Whether the pages may be taken out from under who maps them, when the buffer is taken back.</summary>
    public bool IsWithdrawable { get; } = isWithdrawable;

    /// <summary>Who allocated it, on whose account its bytes are.</summary>
    public BrokerProgram Owner { get; } = owner;

    /// <summary>Programs that have a number for it, once per number.</summary>
    public List<BrokerProgram> Numbers { get; } = [];

    /// <summary>Descriptors of which a copy is left.</summary>
    public List<BrokerDescriptor> Descriptors { get; } = [];

    public List<BrokerMapping> Mappings { get; } = [];

    public int References => Numbers.Count + Descriptors.Count;

    /// <summary>Its bytes are its device's again.</summary>
    public bool IsReturned { get; set; }
}

/// <summary>A descriptor that stands for a buffer.</summary>
/// <param name="Pair">Whose kept end hangs up when the last copy is gone.</param>
/// <param name="Buffer">What it stands for.</param>
/// <param name="Exporter">On whose account it is.</param>
internal sealed record BrokerDescriptor(HandlePair Pair, BrokerBuffer Buffer, BrokerProgram Exporter);

/// <summary>A program's mapping of a buffer's pages.</summary>
/// <param name="Mapping">Core's account of it.</param>
/// <param name="Buffer">Of which.</param>
/// <param name="Program">Whose.</param>
internal sealed record BrokerMapping(CpuMapping Mapping, BrokerBuffer Buffer, BrokerProgram Program)
{
    /// <summary>The program says that it has unmapped, or has closed its connection. That is no proof.</summary>
    public bool IsLetGo { get; set; }

    public bool IsPending => IsLetGo || Program.IsDead;
}
