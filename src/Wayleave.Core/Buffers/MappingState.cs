namespace Wayleave.Core.Buffers;

public enum MappingState
{
    Unmapped,
    Mapped,

    /// <summary>The owner asked for the memory; the importer drains, then unmaps.</summary>
    Invalidated,
}

public enum MappingEvent
{
    Map,
    Invalidate,
    Unmap,
}

//   Unmapped --Map--> Mapped --Invalidate--> Invalidated --Unmap--> Unmapped
//                       |                                              ^
//                       +---------------------Unmap--------------------+
//
// Revoked is not a state of a mapping: it is a flag of the buffer that refuses new maps; a mapping still ends by Unmap.

/// <summary>The life of one attachment's mapping. Pure.</summary>
public static class MappingTransitions
{
    /// <summary>The state after <paramref name="ev"/>, or null when the event does not apply in that state.</summary>
    public static MappingState? Next(this MappingState state, MappingEvent ev) => (state, ev) switch
    {
        (MappingState.Unmapped, MappingEvent.Map) => MappingState.Mapped,
        (MappingState.Mapped, MappingEvent.Invalidate) => MappingState.Invalidated,
        (MappingState.Mapped or MappingState.Invalidated, MappingEvent.Unmap) => MappingState.Unmapped,
        _ => null,
    };
}
