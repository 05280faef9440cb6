namespace Wayleave.Core.Topology;

/// <summary>Who writes, seen from the device (<c>enum dma_data_direction</c>, same numbers).</summary>
public enum DmaDirection
{
    Bidirectional = 0,

    /// <summary>The device reads memory.</summary>
    ToDevice = 1,

    /// <summary>The device writes memory.</summary>
    FromDevice = 2,
}
